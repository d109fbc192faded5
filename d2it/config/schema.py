"""The closed, typed schema of a composed configuration: every key a user can set, with its unit.

Science only: which machine runs a stage is the launcher's business (params/launcher/).
"""

from dataclasses import dataclass, field
from typing import Literal

Ratio = float | list[float]
"""Share of fine regions r; for k > 2 grains, the shares of grains 1..k-1 (0 is the coarsest)."""

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True)
class Dataset:
    """One data set at the resolution it is trained at (params/data/)."""

    source: str  # "photos" (embedded), or the path of a folder, zip, tar or parquet file of images
    size: int  # side in pixels
    train: int | None = None  # number of training images; None: all of them
    test: int | None = None  # number of held-out images; None: all of them
    classes: int = 0  # number of labels; 0: unlabelled
    crop: tuple[float, float] = (1.0, 1.0)  # side of random crops as a share of the short side
    flip: bool = True  # whether crops are mirrored at random
    thresholds_from: str | None = None  # data set whose entropy quantiles are used; None: its own
    # behind the FID reference: so many training images (None: all of them), or a reference batch of
    # data/sources.csv
    reference: int | str | None = None
    protocol: Literal["clean", "adm"] = "clean"  # how samples are compared with it
    read: Literal["shown", "plain"] = "shown"  # upright and on white, or as ADM and DiT decode
    held_out: Literal["random", "last"] = "random"  # which of one folder, where nothing divides it
    images: int | None = None  # training images that the source must hold; None: any number
    smallest: int = 8  # pixels on the short side; an image of fewer counts as damaged
    damaged: int = 0  # unreadable images that are left out before it is an error
    origin: str = ""  # where to get it, for who lacks it
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class Size:
    """One named transformer size."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class WarmStart:
    """Weights of a Stable-Diffusion-style VAE (an AutoencoderKL) that DVAEs start from."""

    file: str  # .safetensors, e.g. vae/diffusion_pytorch_model.safetensors
    sha256: str  # of the file; where it stands does not matter to a run's identity


@dataclass(frozen=True)
class DvaeModel:
    """Hierarchical encoder and decoder (section 3.1): one stage per halving of the resolution."""

    channels: int  # of the first stage
    multipliers: list[int]  # per stage; stage i works at 1/2^i of the resolution. As many as the
    # coarsest factor of any run needs: a run of finer factors has the first few
    res_blocks: int  # per encoder stage; the decoder has one more
    attention: list[int]  # resolutions' downsampling factors with self-attention
    discriminator_channels: int
    discriminator_layers: int
    norm_groups: int = 32
    warm_start: WarmStart | None = None  # None: random weights

    def stages(self, coarsest: int) -> list[int]:
        """The multipliers that a coarsest factor needs: the first, and one for each halving."""
        return self.multipliers[: coarsest.bit_length()]


@dataclass(frozen=True)
class Model:
    """Sizes of everything that is trained (params/model/)."""

    factors: list[int]  # downsampling factors F, coarse to fine, e.g. [16, 8]
    factors_three: list[int]  # of the runs with a third granularity, e.g. [32, 16, 8]
    latent_channels: int
    window: int  # side of RefineNet's attention windows, in fine tokens
    mlp_ratio: float
    dvae: DvaeModel
    sizes: dict[str, Size]


@dataclass(frozen=True)
class Training:
    """How one kind of network is trained. All lengths are in images seen: the only clock."""

    images: int  # length; not part of a run's identity, a longer one extends the run
    batch: int  # images per step, over all processes
    learning_rate: float
    shards: int = 2  # micro-batches of a step; a power of two that the process count divides
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None  # largest gradient norm; None: not clipped
    warmup: int = 0  # images over which the learning rate rises linearly
    ema_half_life: float = 0.0  # images; 0: no averaging
    snapshot_images: int = 0  # between two snapshots for averages of any width (EDM2); 0: none kept
    precision: Literal["fp32", "bf16"] = "fp32"
    label_dropout: float = 0.0  # share of labels hidden in training, for classifier-free guidance
    checkpointing: bool = (
        False  # recompute activations in the backward pass: less memory, same numbers
    )
    compile: bool = False  # torch.compile each block (never on CPU)
    log_images: int = 0  # images between two lines of metrics.jsonl; 0: every step
    save_images: int = 0  # images between two saved states; 0: only at the end


@dataclass(frozen=True)
class DvaeLoss:
    """L1 + LPIPS + KL + adaptive GAN; L1 and LPIPS are means over their elements."""

    perceptual: Literal["alex", "vgg"]
    perceptual_weight: float = 1.0
    kl_weight: float = 1e-6  # of the sum over latents, per pixel value, as in LDM
    gan_start: int = 0  # images seen before the discriminator takes part
    gan_weight: float = 0.5
    gan_weight_cap: float = 0.75  # largest adaptive weight, as in DQ-VAE
    discriminator_learning_rate: float | None = None  # None: the generator's


@dataclass(frozen=True)
class Diffusion:
    """The noise process (section 4.1)."""

    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 2e-2
    learn_sigma: bool = True  # paper does not say; DiT learns the variance with a VB term
    shared_noise: bool = True  # one noise per code, copied over a coarse region with the code


@dataclass(frozen=True)
class Sampling:
    """How images and grain maps are drawn. Sample i is a function of (seed, i) alone."""

    sampler: Literal["ddpm", "ddim", "dpm++"] = "ddim"
    steps: int = 50
    eta: float = 0.0  # DDIM's noise; 1 is ancestral
    grain_steps: int = 50  # ancestral steps of the Dynamic Grain Transformer
    guided_channels: int | None = (
        None  # channels that guidance acts on; None: all (DiT left out the last)
    )
    block: int = 16  # images computed together; borders of shards are borders of blocks
    precision: Precision = "fp32"  # of the transformers; see d2it.machine.device.arithmetic
    compile: bool = False  # torch.compile each block of them (never on CPU); rounds otherwise


@dataclass(frozen=True)
class Evaluation:
    """How much is measured; how, says the data set's protocol."""

    n: int = 50_000  # images per evaluation
    seeds: list[int] = field(default_factory=lambda: [0])  # sampling seeds; the spread is over them
    neighbours: int = 3  # k of the manifolds of precision and recall
    metrics: list[str] | None = None  # None: those of the data set's protocol


@dataclass(frozen=True)
class Measured:
    """One evaluation of a run: what differs from drawing with the last averaged weights."""

    maps: Literal["predicted", "random", "truth"] = "predicted"
    guidance: float = 1.0  # 1 is no guidance
    at: float = 1.0  # share of the training after which the weights are taken
    # a number: the power-function average of this relative width, made from the snapshots
    weights: Literal["ema", "raw"] | float = "ema"
    n: int | None = None  # images drawn; None: evaluation.n


@dataclass(frozen=True)
class DvaeRun:
    data: str
    # "random": a ratio per image, 20 % each of 0, .5 and 1, else uniform. For k > 2 grains, k-1
    # such numbers in falling order are the shares of the regions of grain 1 or finer, 2 or finer, …
    ratio: Ratio | Literal["random"]
    factors: list[int] | None = None  # None: the model's
    ratios: list[Ratio] = field(
        default_factory=list
    )  # ratios that latents are measured and evaluated at
    thresholds: str | None = None  # whose entropy quantiles rule its maps (data.*.thresholds_from)
    images: int | None = None  # length of its training; None: training.dvae's


@dataclass(frozen=True)
class GrainRun:
    latents: str  # the DVAE run whose latents (and maps) it learns from
    ratio: Ratio
    conditional: bool = False
    size: str = "S"
    images: int | None = None  # length of its training; None: training.grain's


@dataclass(frozen=True)
class ContentRun:
    latents: str
    grain: str | None  # the grain run that predicts its maps. Where the ratio makes them constant,
    # params/ name the DVAE run instead (DVC wants a path that exists); it is None here.
    ratio: Ratio
    conditional: bool = False
    size: str = "B"
    split: tuple[int, int] = (10, 2)  # DiT and RefineNet layers, in twelfths of the size's depth
    positions: Literal["learned", "fixed"] = "learned"  # of fine tokens (Table 3's last row)
    grain_loss: bool = True  # weights alpha_i of Eq 11 (Table 3's second row)
    normalise_loss: bool = False  # divide by the mean weight; the paper does not
    bias: Literal["window", "global"] = (
        "window"  # B_r of Eq 10: per head and window, or one N x N matrix
    )
    heads: Literal[2, 3] = 2  # output heads: coarse and fine; 3 adds the router's own fine head
    share_condition: bool = True  # RefineNet uses the Multi-grained Net's t and y embedders
    qk_norm: bool = False
    skip_windows: bool = False  # leave out windows without fine regions: same numbers, less work
    evaluations: dict[str, Measured] = field(default_factory=lambda: {"main": Measured()})
    data: str | None = None  # the data set it is compared with: that of its latents
    images: int | None = None  # length of its training; None: training.content's

    def __post_init__(self) -> None:
        if self.grain == self.latents:
            object.__setattr__(self, "grain", None)


@dataclass(frozen=True)
class DitRun:
    latents: str
    conditional: bool = False
    size: str = "B"
    evaluations: dict[str, Measured] = field(default_factory=lambda: {"main": Measured()})
    data: str | None = None  # the data set it is compared with: that of its latents
    images: int | None = None  # length of its training; None: training.dit's


@dataclass(frozen=True)
class Runs:
    """Every run of the scale, by kind and name (params/experiment/)."""

    dvae: dict[str, DvaeRun]
    grain: dict[str, GrainRun] = field(default_factory=dict)
    content: dict[str, ContentRun] = field(default_factory=dict)
    dit: dict[str, DitRun] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainings:
    dvae: Training
    grain: Training
    content: Training
    dit: Training


@dataclass(frozen=True)
class Config:
    name: str  # of the scale: used in paths and headings, never asked for
    ratio: Ratio  # the main share of fine regions (section 4.2: 0.5)
    seed: int
    task: dict[str, str]  # which data set the unconditional and the conditional study use
    first_stage: dict[str, str | float]  # which DVAE run serves which request of the experiments
    data: dict[str, Dataset]
    model: Model
    training: Trainings
    dvae_loss: DvaeLoss
    diffusion: Diffusion
    sampling: Sampling
    evaluation: Evaluation
    runs: Runs
    # How many trainings of one experiment there are: `x`, `x_s1`, `x_s2`, … differ in their
    # training seed alone: another initialisation, order of the images, and noise.
    repeats: dict[str, int] = field(default_factory=dict)
    convergence: dict[str, Measured] = field(
        default_factory=dict
    )  # shared by Figure 6's experiments
    convergence_guided: dict[str, Measured] = field(default_factory=dict)  # and by Table 2's
    accelerator: Literal["auto", "cuda"] = "auto"  # "cuda": train on GPUs, unless a launcher
    # says device: cpu
    caption: str = ""  # what a figure or table of this scale must say of itself
    sigma: float = 0.01  # of the kernel in Eq 2, on grey values in [-1, 1]
    bins: int = 256  # M of Eq 3
    quantiles: int = 1000  # steps of the stored entropy quantile table
