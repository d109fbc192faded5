"""The closed, typed schema of a composed configuration: every setting, its meaning, its range.

docs/settings.md is written from here. What several settings must be together: check.py.
Science only: which machine runs a stage is the launcher's business (params/launcher/).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from d2it.config.experiments import Measured, Runs
from d2it.config.types import (
    Amount,
    Count,
    Decay,
    Grey,
    Kernel,
    Positive,
    Precision,
    Range,
    Ratio,
    Several,
    Share,
    Variance,
    Weight,
)


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
    second_protocol: Annotated[
        Literal["clean", "adm"] | None, "whose FID of the same samples stands beside; null: none"
    ] = None
    read: Annotated[Literal["shown", "plain"], "decode upright on white, or as ADM"] = "shown"
    held_out: Annotated[
        Literal["random", "last"], "which of an undivided source are test images"
    ] = "random"
    images: Annotated[Count | None, "training images the source must hold; null: any"] = None
    smallest: Annotated[Count, "pixels on the short side; an image of fewer is damaged"] = 8
    damaged: Annotated[Amount, "unreadable images left out before it is an error"] = 0
    origin: Annotated[str, "where to get it"] = ""
    shown_as: Annotated[str, "its name in the captions of tables and figures"] = ""
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
    caption: Annotated[
        str, "what a figure or table of this scale must say of itself; {data}: the data sets shown"
    ] = ""
    sigma: Annotated[Positive, "width of the kernel in Eq 2, on grey values in [-1, 1]"] = 0.01
    bins: Annotated[Several, "M of Eq 3"] = 256
    grey_range: Annotated[tuple[Grey, Grey], "span of Eq 2's bins, on grey values in [-1, 1]"] = (
        -1,
        1,
    )
    quantiles: Annotated[Count, "steps of the stored entropy quantile table"] = 1000

    def caption_of(self, data: Iterable[str]) -> str:
        """What is said of that which was made of these data sets."""
        names = dict.fromkeys(self.data[name].shown_as or name for name in data)
        return self.caption.replace("{data}", " and ".join(names))

    @property
    def kernel(self) -> Kernel:
        return self.sigma, self.bins, self.grey_range
