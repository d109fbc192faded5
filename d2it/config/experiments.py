"""The schema of runs: what params/experiment/ says of each, and of its evaluations."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from d2it.config.types import Amount, Count, Learned, Range, Ratio, Several, Share


@dataclass(frozen=True)
class Measured:
    """One evaluation of a run: what differs from drawing with the last averaged weights."""

    maps: Annotated[Literal["predicted", "random", "truth"], "where maps come from"] = "predicted"
    guidance: Annotated[float, Range("at least 0 and below inf"), "classifier-free; 1 is none"] = (
        1.0
    )
    at: Annotated[Share, "share of the training after which the weights are taken"] = 1.0
    weights: Annotated[
        Literal["ema", "raw"] | Annotated[float, Range("above 0 and at most 0.25")],
        "a number: the power-function average of this relative width, made from snapshots",
    ] = "ema"
    n: Annotated[Several | None, "images drawn; null: evaluation.n"] = None
    ratio: Annotated[
        Ratio | None, "share of fine regions, of a run of random ratios; null: the main one"
    ] = None


@dataclass(frozen=True)
class DvaeRun:
    """A Dynamic VAE (section 3.1)."""

    data: Annotated[str, "data set that it learns from"]
    ratio: Annotated[Learned, "share of fine regions; random: one per image"]
    factors: Annotated[list[Count] | None, "downsampling factors; null: the model's"] = None
    ratios: Annotated[list[Learned], "at which latents are measured"] = field(default_factory=list)
    thresholds: Annotated[str | None, "thresholds_from of its data set, repeated here"] = None
    images: Annotated[Count | None, "length of its training; null: training.dvae's"] = None
    n: Annotated[Several | None, "held-out images measured; null: evaluation.n"] = None


@dataclass(frozen=True)
class GrainRun:
    """A Dynamic Grain Transformer (section 3.2): draws grain maps."""

    latents: Annotated[str, "DVAE run whose latents and maps it learns from"]
    ratio: Annotated[Learned, "share of fine regions, in [0, 1]; random: one per image"]
    conditional: Annotated[bool, "whether it is given the class"] = False
    size: Annotated[str, "one of model.sizes"] = "S"
    images: Annotated[Count | None, "length of its training; null: training.grain's"] = None


@dataclass(frozen=True)
class ContentRun:
    """A Dynamic Content Transformer (section 3.2): draws the codes of a grain map."""

    latents: Annotated[str, "DVAE run whose latents it learns from"]
    # params/ name the DVAE run where maps are constant (DVC wants a path that exists): None here
    grain: Annotated[str | None, "grain run that draws its maps; its DVAE run: constant maps"]
    ratio: Annotated[Learned, "share of fine regions, in [0, 1]; random: one per image"]
    conditional: Annotated[bool, "whether it is given the class"] = False
    size: Annotated[str, "one of model.sizes"] = "B"
    split: Annotated[
        tuple[Amount, Amount], "DiT and RefineNet layers, in twelfths of the depth (Table 4)"
    ] = (10, 2)
    positions: Annotated[Literal["learned", "fixed"], "of fine tokens (Table 3)"] = "learned"
    grain_loss: Annotated[bool, "weights alpha_i of Eq 11 (Table 3)"] = True
    normalise_loss: Annotated[bool, "divide by the mean weight; the paper does not"] = False
    bias: Annotated[
        Literal["window", "global", "none"] | None,
        "B_r of Eq 10: per head and window, one N x N matrix, or none; null: by model.letter",
    ] = None
    heads: Annotated[
        Literal[2, 3] | None,
        "output heads; 3: the router has one per grain; null: by model.letter",
    ] = None
    share_condition: Annotated[bool, "RefineNet shares the embedders of time and class"] = True
    qk_norm: Annotated[bool, "normalise queries and keys"] = False
    fine_only: Annotated[
        bool | None, "mask coarse cells in RefineNet's windows as keys; null: by model.letter"
    ] = None
    skip_windows: Annotated[bool, "leave windows without fine regions out: same numbers"] = False
    evaluations: Annotated[dict[str, Measured], "what is measured, by label"] = field(
        default_factory=lambda: {"main": Measured()}
    )
    data: Annotated[str | None, "data set it is compared with; null: that of its latents"] = None
    images: Annotated[Count | None, "length of its training; null: training.content's"] = None

    def __post_init__(self) -> None:
        if self.grain == self.latents:
            object.__setattr__(self, "grain", None)


# What content runs leave to model.letter: Eq 7's noise of each grain from a head of its own, and
# Eq 10's N x N bias among tokens of the same granularity. Or the plain design.
LETTER: dict[str, Any] = {"heads": 3, "bias": "global", "fine_only": True}
PLAIN: dict[str, Any] = {"heads": 2, "bias": "window", "fine_only": False}


@dataclass(frozen=True)
class DitRun:
    """A DiT, to compare with."""

    latents: Annotated[str, "DVAE run whose latents it learns from, at the finest grain"]
    conditional: Annotated[bool, "whether it is given the class"] = False
    size: Annotated[str, "one of model.sizes"] = "B"
    evaluations: Annotated[dict[str, Measured], "what is measured, by label"] = field(
        default_factory=lambda: {"main": Measured()}
    )
    data: Annotated[str | None, "data set it is compared with; null: that of its latents"] = None
    images: Annotated[Count | None, "length of its training; null: training.dit's"] = None


@dataclass(frozen=True)
class Runs:
    """Every run of the scale, by kind and name (params/experiment/)."""

    dvae: Annotated[dict[str, DvaeRun], "Dynamic VAEs"]
    grain: Annotated[dict[str, GrainRun], "Grain Transformers"] = field(default_factory=dict)
    content: Annotated[dict[str, ContentRun], "Content Transformers"] = field(default_factory=dict)
    dit: Annotated[dict[str, DitRun], "DiTs"] = field(default_factory=dict)
