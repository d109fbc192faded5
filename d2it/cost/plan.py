"""What a study costs before it is run: hours and memory of GPUs, disk, and what is missing.

Everything is a sum over the configuration; no torch, and nothing is measured but what benchmarks
have left. Work is counted as if nothing had been done yet. Model FLOPs are two to a
multiply-accumulate and three forward passes to a training step; what checkpointing computes again
takes hours, but is no progress.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from d2it.config import paths
from d2it.config.protocols import MANIFOLD, asked
from d2it.config.ratios import numeric
from d2it.config.run import Run, runs_of
from d2it.config.schema import Config, Dataset, Training
from d2it.config.study import FIGURES, ITEMS, TABLES, Study, needs, with_inputs
from d2it.config.typed import nearest
from d2it.config.types import Precision, Ratio
from d2it.cost.disk import Disk, latents_disk, no_space, states
from d2it.cost.macs import cost, decoder, dvae_step, encoder, parameters, training_flops
from d2it.cost.memory import GAPS, Need, need_of
from d2it.cost.rate import Rate
from d2it.errors import SETTINGS, UserError
from d2it.images.packed import read_manifest
from d2it.machine.gpus import Gpu
from d2it.models.architecture import architecture, discriminator_shape
from d2it.models.shapes import DvaeShape
from d2it.sources.table import find_source

INCEPTION = 5.71e9  # MACs of Inception-v3 at 299 px
FEATURES = 4 * 2048  # bytes of an image's Inception features
WHOLE = {"all_tables": TABLES, "all_figures": FIGURES, "all": ITEMS}


@dataclass(frozen=True)
class Price:
    """Of one run, with all that is done for it alone, or of one data set."""

    run: str
    kind: str
    parameters: int = 0  # trainable
    gmacs: float = 0.0  # of a forward pass; DVAE: encode and decode
    steps: int = 0
    images: int = 0
    hours: dict[str, float] = field(default_factory=dict)  # train, encode, evaluate, reference
    mfu: float | None = None  # in training, of the peak of its arithmetic
    memory_gb: float | None = None  # that training needs of each GPU
    disk: dict[str, Disk] = field(default_factory=dict)

    @property
    def total_hours(self) -> float:
        return sum(self.hours.values())

    @property
    def total_disk(self) -> Disk:
        return sum(self.disk.values(), Disk())


@dataclass(frozen=True)
class Prices:
    prices: list[Price]  # data sets, then runs
    items: dict[str, float]  # GPU-hours of each table or figure made alone
    missing: list[str]  # sentences
    too_large: list[str] = field(default_factory=list)  # for the GPU, a sentence for each kind

    @property
    def hours(self) -> float:
        return sum(price.total_hours for price in self.prices)

    @property
    def disk(self) -> Disk:
        return sum(self.by_use().values(), Disk())

    def by_use(self) -> dict[str, Disk]:
        """Images, features, latents, states, models and samples of all runs."""
        total: dict[str, Disk] = {}
        for price in self.prices:
            for use, disk in price.disk.items():
                total[use] = total.get(use, Disk()) + disk
        return total


def plan(config: Config, study: Study, targets: Sequence[str], rate: Rate) -> Prices:
    """The price of the runs behind `targets` (tables, figures, runs); none: of all runs."""
    items = [item for target in targets for item in WHOLE.get(target, (target,))]
    runs = runs_behind(config, study, items)
    data = dict.fromkeys(run.data for run in runs)
    prices = [price_data(config, name, rate) for name in data]
    prices += [price_run(run, rate) for run in runs]
    hours = {price.run: price.total_hours for price in prices}
    shown = [item for item in items or ITEMS if item in ITEMS]
    alone = {item: runs_behind(config, study, [item]) for item in shown}
    by_item = {
        item: math.fsum(hours[name] for name in {n for run in mine for n in (run.name, run.data)})
        for item, mine in alone.items()
    }
    found = Prices(prices, by_item, missing(config, list(data)), too_large(runs, rate.gpu))
    return replace(found, missing=found.missing + no_space(found.by_use()))


def too_large(runs: Sequence[Run], gpu: Gpu) -> list[str]:
    """What does not fit the GPU, and the switch that cures it; equal needs in one sentence."""
    together: dict[tuple[str, str], list[Need]] = {}
    for run in runs:
        need = need_of(run)
        if GAPS * need.memory.gigabytes > gpu.gigabytes:
            together.setdefault((need.kind, need.memory.wanted), []).append(need)
    return [
        f"{', '.join(need.run for need in needs)}: training needs {wanted}, and "
        f"{gpu.name.upper()} has {gpu.gigabytes}: {needs[0].cure(gpu.gigabytes / GAPS)}."
        for (_, wanted), needs in together.items()
    ]


def runs_behind(config: Config, study: Study, items: Sequence[str]) -> list[Run]:
    """Each run once, with those that it is trained and sampled with."""
    every = runs_of(config)
    found: list[str] = []
    for item in items:
        if item in ITEMS:
            found += needs(study, item, config)
        elif item in every:
            found.append(item)
        else:
            choices = [*WHOLE, *ITEMS, *every]
            raise UserError(
                f"There is no table, figure or run {item!r} at scale {config.name}"
                f"{nearest(item, choices)}: `d2it study{SETTINGS}` lists them."
            )
    wanted = set(with_inputs(every[name] for name in (found if items else every)))
    return [run for run in every.values() if run in wanted]


def counts(config: Config, name: str) -> tuple[int, int]:
    """Training and held-out images, as far as can be known before they are packed."""
    dataset, folder = config.data[name], paths.images(config, name)
    if (folder / "manifest.json").is_file():
        splits = read_manifest(folder)["splits"]
        return splits["train"]["count"], splits["test"]["count"]
    train = dataset.images or 0 if dataset.train is None else dataset.train
    return train, dataset.test or 0


def price_data(config: Config, name: str, rate: Rate) -> Price:
    """Packed images, and the Inception features that samples are compared with."""
    dataset = config.data[name]
    train, test = counts(config, name)
    images = train + test
    size = images * 3 * dataset.size**2
    own = dataset.reference or train
    referenced = MANIFOLD["adm"] if isinstance(own, str) else own  # a batch's images
    widths = [2048, *([2023] if "sfid" in asked(config, name) else [])]
    gaussians = [8 * width**2 for width in widths if referenced > width]
    features = Disk(referenced * FEATURES + sum(gaussians), 2 + len(gaussians))
    return Price(
        run=name,
        kind="data",
        images=images,
        hours={"reference": rate.hours(protocols(dataset) * referenced * INCEPTION, "fp32")},
        disk={
            "images": Disk(size + 8 * images, math.ceil(size / 2**30) + 3),
            "features": sum([features] * protocols(dataset), Disk()),
        },
    )


def protocols(dataset: Dataset) -> int:
    """How often an image goes through Inception."""
    return 2 if dataset.second_protocol else 1


def price_run(run: Run, rate: Rate) -> Price:
    config, kind, spec, training = run.config, run.kind, run.spec, run.training
    shape, images = architecture(run), run.images
    ratio: Ratio | None = run.main_ratio if getattr(spec, "skip_windows", False) else None
    forward = cost(kind, shape, ratio).macs
    count = parameters(kind, shape)
    price = Price(
        run=run.name,
        kind=kind,
        parameters=count["trainable"],
        gmacs=forward / 1e9,
        steps=images // training.batch,
        images=images,
        memory_gb=need_of(run).memory.gigabytes,
        disk=states(run, count),
    )
    if kind == "dvae":
        return _dvae_price(run, price, rate)
    # fp32 matrix products leave tensor cores alone, as torch does unless told otherwise
    arithmetic: Precision = "bf16" if training.precision == "bf16" else "fp32"
    model = training_flops(kind, shape, ratio) / 2
    work = (model + again(training, forward)) * images
    trained, mfu = rate.training((kind, spec.size), arithmetic, work, model * images)
    hours = {"train": trained}
    if kind == "grain":
        drawn = config.evaluation.n * len(config.evaluation.seeds)
        work = config.sampling.grain_steps * forward * drawn
        hours["evaluate"] = rate.hours(work, config.sampling.precision)
        return replace(price, hours=hours, mfu=mfu)
    hours["evaluate"] = sampling_hours(run, forward, rate)
    most = max(m.n or config.evaluation.n for m in run.evaluations.values())
    drawn = most * len(config.evaluation.seeds)
    features = drawn * FEATURES * protocols(run.dataset)
    samples = {"samples": Disk(features, math.ceil(drawn / 1024))}
    return replace(price, hours=hours, mfu=mfu, disk=price.disk | samples)


def again(training: Training, forward: float) -> float:
    """MACs that checkpointing adds to training on one image."""
    return forward if training.checkpointing else 0


def sampling_hours(run: Run, forward: float, rate: Rate) -> float:
    """Maps, latents, pixels and features of every evaluation's images."""
    sampling, evaluation, grain = run.config.sampling, run.config.evaluation, run.grain
    pixels = _halves(run.dvae)[1]
    of_map = sampling.grain_steps * cost("grain", architecture(grain)).macs if grain else 0
    total = 0.0
    for measured in run.evaluations.values():
        passes = 1 if measured.guidance == 1 else 2
        macs = sampling.steps * passes * forward
        macs += of_map if measured.maps == "predicted" else 0
        images = (measured.n or evaluation.n) * len(evaluation.seeds)
        total += rate.hours(images * macs, sampling.precision)
        total += rate.hours(images * pixels, "tf32")
        total += rate.hours(protocols(run.dataset) * images * INCEPTION, "fp32")
    return total


def _dvae_price(run: Run, price: Price, rate: Rate) -> Price:
    config, training, loss = run.config, run.training, run.config.dvae_loss
    shape, critic = architecture(run), discriminator_shape(config)
    alone, played = (
        dvae_step(shape, critic, loss.perceptual, playing) for playing in (False, True)
    )
    quiet = min(loss.gan_start, price.images)
    steps = alone * quiet + played * (price.images - quiet)
    steps += again(training, price.gmacs * 1e9) * price.images
    # cuDNN's convolutions take TF32 unless told otherwise
    arithmetic: Precision = "bf16" if training.precision == "bf16" else "tf32"
    coding, n = sum(_halves(run)), run.spec.n or config.evaluation.n
    packed, ratios = counts(config, run.data), len(numeric(run.spec.ratios))
    evaluate = rate.hours(n * ratios * coding, "tf32")
    evaluate += rate.hours(n * (ratios + 1) * INCEPTION, "fp32")
    model = training_flops("dvae", shape) / 2 * price.images
    trained, mfu = rate.training(("dvae", ""), arithmetic, steps, model)
    hours = {
        "train": trained,
        "encode": rate.hours(2 * sum(packed) * _halves(run)[0], "tf32"),  # both mirrors
        "evaluate": evaluate,
    }
    disk = price.disk | {"latents": latents_disk(shape, packed)}
    return replace(price, hours=hours, mfu=mfu, disk=disk)


def _halves(dvae: Run) -> tuple[float, float]:
    """MACs of encoding and of decoding one image."""
    shape = DvaeShape(**architecture(dvae))
    return encoder(shape).macs, decoder(shape).macs


def missing(config: Config, data: Sequence[str]) -> list[str]:
    """What has to be fetched or brought before the study can begin, a sentence each."""
    found = []
    start = config.model.dvae.warm_start
    if start is not None and not Path(start.file).is_file():
        found.append(f"{start.file} is missing: bring it, or set model.dvae.warm_start to null.")
    for name in data:
        if (paths.images(config, name) / "manifest.json").is_file():
            continue
        dataset = config.data[name]
        if dataset.source == "emoji" and not find_source("twemoji").file.is_file():
            found.append(f"The images of {name} are missing: `d2it fetch emoji`.")
        elif dataset.source not in ("photos", "emoji") and not holds_something(
            Path(dataset.source)
        ):
            found.append(
                f"The images of {name} are missing: put them in {dataset.source} (docs/data.md), "
                f"or set data.{name}.source to where they are."
            )
        elif not sum(counts(config, name)):
            found.append(
                f"How many images {name} has is not known yet, so the price leaves them out: "
                f"`d2it prepare {name} scale={config.name}` counts them."
            )
    for weights in ("inception", f"lpips_{config.dvae_loss.perceptual}"):
        if not find_source(weights).file.is_file():
            found.append(f"The weights {weights} are missing: `d2it fetch {weights}`.")
    for name in data:
        named = config.data[name].reference
        if isinstance(named, str) and not find_source(named).file.is_file():
            found.append(
                f"{named}, which {name} is compared with, is missing: `d2it fetch {named}` gets "
                f"its {find_source(named).bytes / 1e9:.1f} GB (Snakemake does so itself), or set "
                f"data.{name}.reference to null."
            )
    scored = [name for name in data if "inception_score" in asked(config, name)]
    if scored and not find_source("inception_head").file.is_file():
        found.append(
            f"Without the classifier inception_head the Inception Score of {', '.join(scored)} is "
            "left out: `d2it fetch inception_head` before anything is evaluated, since evaluations "
            "made without it are drawn again."
        )
    return found


def holds_something(source: Path) -> bool:
    """An archive, or a folder in which more than hidden files lie."""
    if source.is_dir():
        return any(not path.name.startswith(".") for path in source.iterdir())
    return source.exists()
