"""What each run's network looks like: its constructor's arguments, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2it.config.run import Run
from d2it.config.schema import Config
from d2it.errors import UserError

PATCH = 2  # P_L of section 3.2.3 for two grains, and DiT's patch: a token is one coarse region

Architecture = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one resolution, each followed by attention where that is asked for."""

    inputs: int  # channels
    width: int
    blocks: int
    side: int
    attends: bool


@dataclass(frozen=True)
class DvaeShape:
    """The constructor arguments of a Dvae, and the stages that follow from them."""

    factors: Sequence[int]
    size: int
    latent_channels: int
    channels: int
    multipliers: Sequence[int]
    res_blocks: int
    attention: Sequence[int]
    norm_groups: int = 32

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


def architecture(run: Run) -> Architecture:
    """The constructor arguments of the network of `run`; they are stored beside its weights."""
    of_kind = {"dvae": _dvae, "grain": _grain, "content": _content, "dit": _dit}
    return of_kind[run.kind](run)


def split_layers(depth: int, split: tuple[int, int]) -> tuple[int, int]:
    """DiT and RefineNet layers: `split` counts twelfths of the depth, half a layer rounds up.

    (10, 2) is 10+2 at depth 12, 20+4 at 24, 23+5 at 28 (D²iT-B, -L, -XL) and 5+1 at 6 (the demo).
    """
    dit, refine = ((2 * depth * share + 12) // 24 for share in split)
    return dit, refine


def latent_side(run: Run) -> int:
    """Side of the finest latent grid, e.g. 256 px / 8 = 32."""
    return run.dataset.size // run.factors[-1]


def num_classes(run: Run) -> int:
    """Number of labels that a transformer is told: those of its images, or 0."""
    if not run.spec.conditional:
        return 0
    if not run.dataset.classes:
        raise UserError(
            f"A conditional run learns from {run.data!r}, which has no classes: "
            f"set data.{run.data}.classes."
        )
    return run.dataset.classes


def discriminator_shape(config: Config) -> dict[str, int]:
    """The discriminator's constructor arguments."""
    model = config.model.dvae
    return {
        "channels": model.discriminator_channels,
        "layers": model.discriminator_layers,
        "norm_groups": model.norm_groups,
    }


def _dvae(run: Run) -> Architecture:
    model = run.config.model.dvae
    return {
        "factors": run.factors,
        "size": run.dataset.size,
        "latent_channels": run.config.model.latent_channels,
        "channels": model.channels,
        "multipliers": model.stages(run.factors[0]),
        "res_blocks": model.res_blocks,
        "attention": list(model.attention),
        "norm_groups": model.norm_groups,
    }


def _transformer(run: Run) -> Architecture:
    """What the three transformers share."""
    size = run.config.model.sizes[run.spec.size]
    return {
        "width": size.width,
        "heads": size.heads,
        "classes": num_classes(run),
        "mlp_ratio": run.config.model.mlp_ratio,
    }


def _grain(run: Run) -> Architecture:
    return _transformer(run) | {
        "side": run.dataset.size // run.factors[0],
        "grains": len(run.factors),
        "depth": run.config.model.sizes[run.spec.size].depth,
        **({"any_ratio": True} if run.ratio == "random" else {}),  # younger than some networks
    }


def _dit(run: Run) -> Architecture:
    model, diffusion = run.config.model, run.config.diffusion
    return _transformer(run) | {
        "side": latent_side(run),
        "channels": model.latent_channels,
        "patch": PATCH,
        "depth": model.sizes[run.spec.size].depth,
        "learn_sigma": diffusion.learn_sigma,
    }


def _content(run: Run) -> Architecture:
    model, diffusion, spec = run.config.model, run.config.diffusion, run.spec
    return _transformer(run) | {
        "side": latent_side(run),
        "channels": model.latent_channels,
        "grains": len(run.factors),
        "layers": list(split_layers(model.sizes[spec.size].depth, spec.split)),
        "window": model.window,
        "learn_sigma": diffusion.learn_sigma,
        "positions": spec.positions,
        "bias": spec.bias,
        "heads_out": spec.heads,
        "share_condition": spec.share_condition,
        "qk_norm": spec.qk_norm,
        "skip_windows": spec.skip_windows,
        "equal_coarse": diffusion.shared_noise,
        **({"fine_only": True} if spec.fine_only else {}),  # younger than some networks
    }
