"""Constructor arguments of networks, as a stranger may have written them: types and ranges.

The limits are far above the paper's largest network; what a network takes in memory is held against
its weights file (d2it/sampling/fits.py). No torch.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from d2it.config.types import Amount, Range

Width = Annotated[int, Range("at least 4 and at most 16384")]
Channels = Annotated[int, Range("at least 1 and at most 16384")]
Layers = Annotated[int, Range("at least 0 and at most 256")]
Side = Annotated[int, Range("at least 1 and at most 512")]
Few = Annotated[int, Range("at least 1 and at most 64")]
Grains = Annotated[int, Range("at least 2 and at most 6")]
MlpRatio = Annotated[float, Range("at least 1 and at most 16")]


@dataclass(frozen=True)
class Dvae:
    factors: Annotated[list[Few], "downsampling factors, coarse to fine"]
    size: Annotated[int, Range("at least 1 and at most 8192"), "of an image in pixels"]
    latent_channels: Annotated[Few, "of a code"]
    channels: Annotated[Channels, "of the first stage"]
    multipliers: Annotated[list[Few], "of the channels, per stage"]
    res_blocks: Annotated[Few, "per encoder stage"]
    attention: Annotated[list[Side], "downsampling factors with self-attention"]
    norm_groups: Annotated[Channels, "of group normalisation"] = 32


@dataclass(frozen=True, kw_only=True)
class Transformer:
    side: Annotated[Side, "of the grid that it draws"]
    width: Annotated[Width, "numbers in a token"]
    heads: Annotated[int, Range("at least 1 and at most 1024"), "attention heads"]
    classes: Annotated[Amount, "that it is told; 0: none"]
    mlp_ratio: Annotated[MlpRatio, "of an MLP's width"] = 4.0
    qk_norm: Annotated[bool, "normalised queries and keys"] = False


@dataclass(frozen=True, kw_only=True)
class Grain(Transformer):
    grains: Annotated[Grains, "how many there are"]
    depth: Annotated[Layers, "layers"]
    any_ratio: Annotated[bool, "it is told the ratio"] = False


@dataclass(frozen=True, kw_only=True)
class Dit(Transformer):
    channels: Annotated[Few, "of the latents"]
    patch: Annotated[Few, "side of a token in cells"]
    depth: Annotated[Layers, "layers"]
    learn_sigma: Annotated[bool, "it predicts a variance too"] = True


@dataclass(frozen=True, kw_only=True)
class Content(Transformer):
    channels: Annotated[Few, "of the latents"]
    grains: Annotated[Grains, "how many there are"]
    layers: Annotated[tuple[Layers, Layers], "DiT and RefineNet layers"]
    window: Annotated[Side, "side of a RefineNet's windows in tokens"]
    learn_sigma: Annotated[bool, "it predicts a variance too"] = True
    positions: Annotated[Literal["learned", "fixed"], "of fine tokens"] = "learned"
    bias: Annotated[Literal["window", "global", "none"], "B_r of Eq 10"] = "window"
    heads_out: Annotated[Literal[2, 3], "heads at the end"] = 2
    share_condition: Annotated[bool, "RefineNet has the DiT's condition"] = True
    fine_only: Annotated[bool, "fine tokens see fine tokens alone"] = False
    skip_windows: Annotated[bool, "windows without fine regions are left out"] = False
    equal_coarse: Annotated[bool, "the cells of a coarse code share one noise"] = True


SHAPES = {"dvae": Dvae, "grain": Grain, "dit": Dit, "content": Content}
