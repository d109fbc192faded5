"""The closed, typed schema of a composed configuration: every setting, its meaning, its range.

docs/settings.md is written from here. What several settings must be together: check.py.
Science only: which machine runs a stage is the launcher's business (params/launcher/).
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal


class Range(str):
    """What a number must be, e.g. "above 0 and at most 1"."""


Amount = Annotated[int, Range("at least 0")]
Count = Annotated[int, Range("at least 1")]
Several = Annotated[int, Range("at least 2")]
Weight = Annotated[float, Range("at least 0")]
Positive = Annotated[float, Range("above 0")]
Decay = Annotated[float, Range("at least 0 and below 1")]
Variance = Annotated[float, Range("above 0 and below 1")]
Share = Annotated[float, Range("above 0 and at most 1")]
Grey = Annotated[int, Range("at least -1 and at most 1")]

Ratio = float | list[float]
"""Share of fine regions r; for k > 2 grains, the shares of grains 1..k-1 (0 is the coarsest)."""

# "random": a ratio per image, 20 % each of 0, .5 and 1, else uniform. For k > 2 grains, k-1 such
# numbers in falling order are the shares of the regions of grain 1 or finer, 2 or finer, …
Learned = Ratio | Literal["random"]
"""What a run learns from: images of one ratio, or of a random one each, so that it serves all."""

Precision = Literal["fp32", "tf32", "bf16"]

Kernel = tuple[float, int, tuple[int, int]]
"""What Eq 2 measures entropy with: sigma, how many bins, and what they span."""


@dataclass(frozen=True)
class Dataset:
    """A data set at the resolution it is trained at (params/data/)."""

    source: Annotated[str, "photos, emoji, or a folder, zip, tar or parquet file of images"]
    size: Annotated[Count, "side of the images in pixels"]
    train: Annotated[Count | None, "training images; null: all"] = None
    test: Annotated[Amount | None, "held-out images; null: all"] = None
    classes: Annotated[Amount, "number of labels; 0: unlabelled"] = 0
    crop: Annotated[tuple[Share, Share], "random crops, as shares of the short side"] = (1.0, 1.0)
    flip: Annotated[bool, "mirror crops at random"] = True
    thresholds_from: Annotated[str | None, "data set of the entropy quantiles; null: itself"] = None
    reference: Annotated[
        Several | str | None,
        "training images behind FID (null: all), or a reference batch of data/sources.csv",
    ] = None
    protocol: Annotated[Literal["clean", "adm"], "compare samples as clean-fid or ADM"] = "clean"
    read: Annotated[Literal["shown", "plain"], "decode upright on white, or as ADM"] = "shown"
    held_out: Annotated[
        Literal["random", "last"], "which of an undivided source are test images"
    ] = "random"
    images: Annotated[Count | None, "training images the source must hold; null: any"] = None
    smallest: Annotated[Count, "pixels on the short side; an image of fewer is damaged"] = 8
    damaged: Annotated[Amount, "unreadable images left out before it is an error"] = 0
    origin: Annotated[str, "where to get it"] = ""
    licence: Annotated[str, "licence, kept with all that is made of it"] = ""
    citation: Annotated[str, "paper to cite"] = ""


@dataclass(frozen=True)
class Size:
    """A named transformer size."""

    width: Annotated[Count, "numbers in a token; a multiple of 4 and of the heads"]
    depth: Annotated[Count, "layers"]
    heads: Annotated[Count, "attention heads"]


@dataclass(frozen=True)
class WarmStart:
    """Weights of a Stable-Diffusion-style VAE (an AutoencoderKL) that DVAEs start from."""

    file: Annotated[str, ".safetensors, e.g. vae/diffusion_pytorch_model.safetensors"]
    sha256: Annotated[str, "of the file; where it stands is no part of a run's identity"]


@dataclass(frozen=True)
class DvaeModel:
    """Hierarchical encoder and decoder (section 3.1): one stage per halving of the resolution."""

    channels: Annotated[Count, "channels of the first stage"]
    # As many as the coarsest factor of any run needs: a run of finer factors has the first few.
    multipliers: Annotated[
        list[Count], "of the channels, per stage; stage i works at 1/2^i of the resolution"
    ]
    res_blocks: Annotated[Count, "per encoder stage; the decoder has one more"]
    attention: Annotated[list[Count], "downsampling factors with self-attention"]
    discriminator_channels: Annotated[Count, "channels of the discriminator's first layer"]
    discriminator_layers: Annotated[Count, "downsampling layers of the discriminator"]
    norm_groups: Annotated[Count, "groups of group normalisation"] = 32
    warm_start: Annotated[WarmStart | None, "weights to start from; null: random"] = None

    def stages(self, coarsest: int) -> list[int]:
        """The multipliers that a coarsest factor needs: the first, and one for each halving."""
        return self.multipliers[: coarsest.bit_length()]


@dataclass(frozen=True)
class Model:
    """Sizes of everything that is trained (params/model/)."""

    factors: Annotated[list[Count], "downsampling factors F, coarse to fine (section 4.1)"]
    factors_three: Annotated[list[Count], "of the runs with a third granularity"]
    latent_channels: Annotated[Count, "channels of a code"]
    window: Annotated[Count, "side of RefineNet's attention windows, in fine tokens"]
    mlp_ratio: Annotated[Positive, "width of a block's MLP, in widths of a token"]
    dvae: Annotated[DvaeModel, "the Dynamic VAE"]
    sizes: Annotated[dict[str, Size], "transformer sizes by name"]
    letter: Annotated[bool, "content runs are as Eq 7 and 10 say; false: the plain design"] = False


@dataclass(frozen=True)
class Training:
    """How one kind of network is trained. All lengths are in images seen: the only clock."""

    images: Annotated[Count, "length; a longer training extends the run"]
    batch: Annotated[Count, "images per step, over all processes"]
    learning_rate: Annotated[Positive, "learning rate, constant after the warmup"]
    shards: Annotated[Count, "micro-batches of a step: a power of two that processes divide"] = 2
    betas: Annotated[tuple[Decay, Decay], "of AdamW"] = (0.9, 0.999)
    weight_decay: Annotated[Weight, "of AdamW"] = 0.0
    clip: Annotated[Positive | None, "largest gradient norm; null: not clipped"] = None
    warmup: Annotated[Amount, "images over which the learning rate rises linearly"] = 0
    ema_half_life: Annotated[Weight, "of averaged weights, in images; 0: no averaging"] = 0.0
    snapshot_images: Annotated[
        Amount, "images between snapshots for averages of any width (EDM2); 0: none kept"
    ] = 0
    precision: Annotated[Literal["fp32", "bf16"], "number format of the arithmetic"] = "fp32"
    label_dropout: Annotated[Decay, "share of labels hidden, for classifier-free guidance"] = 0.0
    checkpointing: Annotated[bool, "recompute activations: less memory, same numbers"] = False
    compile: Annotated[bool, "torch.compile each block (never on CPU)"] = False
    log_images: Annotated[Amount, "images between lines of metrics.jsonl; 0: every step"] = 0
    save_images: Annotated[Amount, "images between saved states; 0: only at the end"] = 0


@dataclass(frozen=True)
class DvaeLoss:
    """L1 + LPIPS + KL + adaptive GAN; L1 and LPIPS are means over their elements."""

    perceptual: Annotated[Literal["alex", "vgg"], "network of LPIPS"]
    perceptual_weight: Annotated[Weight, "weight of LPIPS"] = 1.0
    kl_weight: Annotated[
        Weight, "weight of the KL: summed over latents, per pixel value, as in LDM"
    ] = 1e-6
    gan_start: Annotated[Amount, "images seen before the discriminator takes part"] = 0
    gan_weight: Annotated[Weight, "weight of the GAN term, times its adaptive weight"] = 0.5
    gan_weight_cap: Annotated[Weight, "largest adaptive weight, as in DQ-VAE"] = 0.75
    discriminator_learning_rate: Annotated[
        Positive | None, "of the discriminator; null: the DVAE's"
    ] = None


@dataclass(frozen=True)
class Diffusion:
    """The noise process (section 4.1)."""

    timesteps: Annotated[Several, "steps T of the noise process"] = 1000
    beta_start: Annotated[Variance, "variance of the first step; they rise linearly"] = 1e-4
    beta_end: Annotated[Variance, "variance of the last step"] = 2e-2
    # paper does not say; DiT learns the variance with a VB term
    learn_sigma: Annotated[bool, "learn the reverse variance, with DiT's VB term"] = True
    shared_noise: Annotated[bool, "one noise per code, copied over a coarse region with it"] = True


@dataclass(frozen=True)
class Sampling:
    """How images and grain maps are drawn. Sample i is a function of (seed, i) alone."""

    sampler: Annotated[Literal["ddpm", "ddim", "dpm++"], "sampler of the content"] = "ddim"
    steps: Annotated[Count, "steps of the sampler, at most diffusion.timesteps"] = 50
    eta: Annotated[float, Range("at least 0 and at most 1"), "DDIM's noise; 1 is ancestral"] = 0.0
    grain_steps: Annotated[Count, "ancestral steps of the Dynamic Grain Transformer"] = 50
    guided_channels: Annotated[Count | None, "latent channels that guidance acts on; null: all"] = (
        None
    )
    block: Annotated[Count, "images computed together; shards begin at blocks"] = 16
    precision: Annotated[Precision, "number format of the transformers"] = "fp32"
    compile: Annotated[bool, "torch.compile each block (never on CPU); rounds otherwise"] = False


@dataclass(frozen=True)
class Evaluation:
    """How much is measured; how, says the data set's protocol."""

    n: Annotated[Several, "images per evaluation"] = 50_000
    seeds: Annotated[list[Amount], "sampling seeds, for means and spread"] = field(
        default_factory=lambda: [0]
    )
    neighbours: Annotated[Count, "k of the manifolds of precision and recall"] = 3
    metrics: Annotated[
        list[str] | None, "what is measured; null: the metrics of the data set's protocol"
    ] = None


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


@dataclass(frozen=True)
class Trainings:
    """How each kind of network is trained."""

    dvae: Annotated[Training, "training of the Dynamic VAEs"]
    grain: Annotated[Training, "training of the Grain Transformers"]
    content: Annotated[Training, "training of the Content Transformers"]
    dit: Annotated[Training, "training of the DiTs"]


@dataclass(frozen=True)
class Config:
    """The study at one scale (params/config.yaml, params/scale/)."""

    name: Annotated[str, "name of the scale, in paths and headings"]
    ratio: Annotated[Ratio, "main share of fine regions, in [0, 1] (section 4.2: 0.5)"]
    seed: Annotated[Amount, "seed of data and trainings"]
    task: Annotated[dict[str, str], "data set of the unconditional and of the conditional study"]
    first_stage: Annotated[dict[str, str | float], "DVAE run for each request of experiments"]
    data: Annotated[dict[str, Dataset], "data sets by name"]
    model: Annotated[Model, "sizes of everything that is trained"]
    training: Annotated[Trainings, "how each kind of network is trained"]
    dvae_loss: Annotated[DvaeLoss, "what a DVAE minimises"]
    diffusion: Annotated[Diffusion, "the noise process"]
    sampling: Annotated[Sampling, "how images and grain maps are drawn"]
    evaluation: Annotated[Evaluation, "how much is measured"]
    runs: Annotated[Runs, "every run, by kind and name"]
    # `x`, `x_s1`, `x_s2`, … differ in their training seed alone: another initialisation, order of
    # the images, and noise.
    repeats: Annotated[dict[str, Count], "training seeds of a run x: x, x_s1, …"] = field(
        default_factory=dict
    )
    convergence: Annotated[dict[str, Measured], "evaluations of Figure 6's runs"] = field(
        default_factory=dict
    )
    convergence_guided: Annotated[dict[str, Measured], "evaluations of Table 2's runs"] = field(
        default_factory=dict
    )
    accelerator: Annotated[
        Literal["auto", "cuda"], "cuda: train on GPUs, unless a launcher says device: cpu"
    ] = "auto"
    caption: Annotated[str, "what a figure or table of this scale must say of itself"] = ""
    sigma: Annotated[Positive, "width of the kernel in Eq 2, on grey values in [-1, 1]"] = 0.01
    bins: Annotated[Several, "M of Eq 3"] = 256
    grey_range: Annotated[tuple[Grey, Grey], "span of Eq 2's bins, on grey values in [-1, 1]"] = (
        -1,
        1,
    )
    quantiles: Annotated[Count, "steps of the stored entropy quantile table"] = 1000

    @property
    def kernel(self) -> Kernel:
        return self.sigma, self.bins, self.grey_range
