"""Constructor arguments of networks: types, defaults and ranges, and what follows from them.

They are stored beside weights, and a stranger may have written them. The limits are far above the
paper's largest network; what a network takes in memory is held against its weights file
(d2it/sampling/fits.py). No torch.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from d2it.config.types import Amount, Range
from d2it.errors import UserError

FREQUENCIES = 256  # of a timestep's embedding

Width = Annotated[int, Range("at least 4 and at most 16384")]
Channels = Annotated[int, Range("at least 1 and at most 16384")]
Layers = Annotated[int, Range("at least 0 and at most 256")]
Side = Annotated[int, Range("at least 1 and at most 512")]
Few = Annotated[int, Range("at least 1 and at most 64")]
Grains = Annotated[int, Range("at least 2 and at most 6")]
MlpRatio = Annotated[float, Range("at least 1 and at most 16")]


class Stage(NamedTuple):
    """Residual blocks of one resolution, each followed by attention where that is asked for."""

    inputs: int  # channels
    width: int
    blocks: int
    side: int
    attends: bool


@dataclass(frozen=True)
class DvaeShape:
    factors: Annotated[list[Few], "downsampling factors, coarse to fine"]
    size: Annotated[int, Range("at least 1 and at most 8192"), "of an image in pixels"]
    latent_channels: Annotated[Few, "of a code"]
    channels: Annotated[Channels, "of the first stage"]
    multipliers: Annotated[list[Few], "of the channels, per stage"]
    res_blocks: Annotated[Few, "per encoder stage"]
    attention: Annotated[list[Side], "downsampling factors with self-attention"]
    norm_groups: Annotated[Channels, "of group normalisation"] = 32

    @property
    def widths(self) -> list[int]:
        """Of stage i, which works at 1/2^i of the resolution."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def depths(self) -> list[int]:
        """The stages after which the heads branch off: log2 of their factors."""
        return [factor.bit_length() - 1 for factor in self.factors]

    @property
    def down(self) -> list[Stage]:
        """The encoder's, from pixels to the coarsest grid."""
        inputs = [self.channels, *self.widths]
        return [self._stage(i, inputs[i], self.res_blocks) for i in range(len(self.widths))]

    @property
    def up(self) -> list[Stage]:
        """The decoder's, from the finest factor's grid to pixels, each with one block more."""
        finest = self.depths[-1]
        inputs = [*self.widths[1 : finest + 1], self.widths[finest]]
        return [self._stage(i, inputs[i], self.res_blocks + 1) for i in range(finest, -1, -1)]

    def _stage(self, i: int, inputs: int, blocks: int) -> Stage:
        attends = 2**i in self.attention
        return Stage(inputs, self.widths[i], blocks, self.size >> i, attends)


def check_shape(shape: DvaeShape) -> None:
    """Sizes that do not fit together, in one sentence each."""
    factors, groups = shape.factors, shape.norm_groups
    if any(coarse != 2 * fine for coarse, fine in zip(factors, factors[1:], strict=False)):
        raise UserError(f"factors is {list(factors)}, but must halve from coarse to fine.")
    if 2 ** (len(shape.multipliers) - 1) != factors[0]:
        raise UserError(
            f"model.dvae.multipliers has {len(shape.multipliers)} stages, but the factor "
            f"{factors[0]} needs {factors[0].bit_length()}: one for each halving, and the first."
        )
    if shape.size % factors[0]:
        raise UserError(f"{shape.size} px do not divide into regions of {factors[0]} px.")
    for width in (shape.channels, *shape.widths):
        if width % groups:
            raise UserError(
                f"model.dvae.norm_groups is {groups}, which does not divide {width} channels."
            )


class Net(NamedTuple):
    """Tokens of one patch size through blocks of one kind, and the heads at their end."""

    tokens: int
    depth: int
    patch: int
    inputs: int  # channels of a cell
    outputs: int
    seen: int  # tokens that each attends to
    heads: int = 1
    learned: bool = False  # its positions
    matrix: int = 0  # numbers of Eq 10's bias, in each layer
    masks: int = 0  # of each window's own, beside the scores
    conditioned: bool = False  # by embeddings of its own


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    side: Annotated[Side, "of the grid that it draws"]
    width: Annotated[Width, "numbers in a token"]
    heads: Annotated[int, Range("at least 1 and at most 1024"), "attention heads"]
    classes: Annotated[Amount, "that it is told; 0: none"]
    mlp_ratio: Annotated[MlpRatio, "of an MLP's width"] = 4.0
    qk_norm: Annotated[bool, "normalised queries and keys"] = False

    @property
    def nets(self) -> list[Net]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class GrainShape(TransformerShape):
    grains: Annotated[Grains, "how many there are"]
    depth: Annotated[Layers, "layers"]
    any_ratio: Annotated[bool, "it is told the ratio"] = False

    @property
    def nets(self) -> list[Net]:
        """A DiT over the one-hot map, a token per region."""
        tokens = self.side**2
        return [Net(tokens, self.depth, 1, self.grains, self.grains, tokens)]


@dataclass(frozen=True, kw_only=True)
class CodesShape(TransformerShape):
    channels: Annotated[Few, "of the latents"]
    learn_sigma: Annotated[bool, "it predicts a variance too"] = True

    @property
    def outputs(self) -> int:
        return self.channels * (2 if self.learn_sigma else 1)


@dataclass(frozen=True, kw_only=True)
class DitShape(CodesShape):
    patch: Annotated[Few, "side of a token in cells"]
    depth: Annotated[Layers, "layers"]

    @property
    def nets(self) -> list[Net]:
        tokens = (self.side // self.patch) ** 2
        return [Net(tokens, self.depth, self.patch, self.channels, self.outputs, tokens)]


@dataclass(frozen=True, kw_only=True)
class ContentShape(CodesShape):
    grains: Annotated[Grains, "how many there are"]
    layers: Annotated[tuple[Layers, Layers], "DiT and RefineNet layers"]
    window: Annotated[Side, "side of a RefineNet's windows in tokens"]
    positions: Annotated[Literal["learned", "fixed"], "of fine tokens"] = "learned"
    bias: Annotated[Literal["window", "global", "none"], "B_r of Eq 10"] = "window"
    heads_out: Annotated[Literal[2, 3], "heads at the end"] = 2
    share_condition: Annotated[bool, "RefineNet has the DiT's condition"] = True
    fine_only: Annotated[bool, "fine tokens see fine tokens alone"] = False
    skip_windows: Annotated[bool, "windows without fine regions are left out"] = False
    equal_coarse: Annotated[bool, "the cells of a coarse code share one noise"] = True

    @property
    def nets(self) -> list[Net]:
        """The Multi-grained Net and its router, then a RefineNet for each finer grain."""
        (depth, refine), learned = self.layers, self.positions == "learned"
        patch = 2 ** (self.grains - 1)  # a token is a region
        tokens = (self.side // patch) ** 2
        heads = self.grains if self.heads_out == 3 else 1
        first = learned and not refine
        net = Net(tokens, depth, patch, self.channels, self.outputs, tokens, heads, first)
        return [net, *(self._refine(patch >> finer) for finer in range(1, self.grains) if refine)]

    def _refine(self, patch: int) -> Net:
        tokens, seen = (self.side // patch) ** 2, self.window**2
        each = self.heads if self.bias == "window" else 1
        return Net(
            tokens,
            self.layers[1],
            patch,
            2 * self.channels,
            self.outputs,
            seen,
            learned=self.positions == "learned",
            matrix={"window": self.heads * seen**2, "global": tokens**2, "none": 0}[self.bias],
            masks=each if self.fine_only else 0,
            conditioned=not self.share_condition,
        )


SHAPES: dict[str, Any] = {
    "dvae": DvaeShape,
    "grain": GrainShape,
    "dit": DitShape,
    "content": ContentShape,
}
