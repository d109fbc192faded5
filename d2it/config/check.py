"""What types cannot say of a configuration: ranges, and names that point at something."""

from collections.abc import Collection

from d2it.config.build import nearest
from d2it.config.recipe import thresholds_source
from d2it.config.schema import Config, ContentRun, DitRun, DvaeRun, GrainRun, Ratio
from d2it.errors import UserError


def check_meaning(config: Config) -> None:
    """Raise the sentence for the first setting that makes no sense."""
    _check_model(config)
    _check_training(config)
    check_ratio(config.ratio, 2, "ratio")
    for task, data in config.task.items():
        _known(data, config.data, f"task.{task}", "data set")
    for name, dvae in config.runs.dvae.items():
        _check_dvae(config, dvae, f"runs.dvae.{name}")
    for kind in ("grain", "content", "dit"):
        for name, run in getattr(config.runs, kind).items():
            _check_run(config, run, f"runs.{kind}.{name}")
    _require(config.sampling.block >= 1, "sampling.block must be at least 1.")
    _require(config.evaluation.n >= 2, "evaluation.n must be at least 2.")


def check_ratio(ratio: Ratio | str, grains: int, where: str) -> None:
    """Shares of the k-1 finer grains: each in [0, 1], together at most 1."""
    if isinstance(ratio, str):
        return
    shares = ratio if isinstance(ratio, list) else [ratio]
    _require(
        all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-9,
        f"{where} is {ratio}, but a share of regions lies in [0, 1] (and shares sum to at most 1).",
    )
    _require(
        len(shares) == grains - 1,
        f"{where} has {len(shares)} shares, but {grains} grains need {grains - 1}.",
    )


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def _known(name: str, choices: Collection[str], where: str, what: str) -> None:
    near = nearest(name, list(choices))
    _require(
        name in choices, f"{where} names the {what} {name!r}, which this scale does not have{near}."
    )


def _check_dvae(config: Config, dvae: DvaeRun, where: str) -> None:
    _known(dvae.data, config.data, where, "data set")
    source = thresholds_source(config, dvae.data)
    _known(source, config.data, f"data.{dvae.data}.thresholds_from", "data set")
    _require(
        dvae.thresholds == source,
        f"{where}.thresholds is {dvae.thresholds!r}, but must be {source!r}: {dvae.data} takes its "
        "thresholds from there.",
    )
    factors = dvae.factors or config.model.factors
    for ratio in [dvae.ratio, *dvae.ratios]:
        check_ratio(ratio, len(factors), f"{where}.ratio")
    size = config.data[dvae.data].size
    _require(
        size % factors[0] == 0,
        f"{where}: {size} px do not divide into regions of {factors[0]} px.",
    )


def _check_run(config: Config, run: GrainRun | ContentRun | DitRun, where: str) -> None:
    _known(run.latents, config.runs.dvae, where, "DVAE")
    _known(run.size, config.model.sizes, where, "size")
    if not isinstance(run, DitRun):
        grains = len(config.runs.dvae[run.latents].factors or config.model.factors)
        check_ratio(run.ratio, grains, f"{where}.ratio")
    if isinstance(run, ContentRun) and run.grain is not None:
        _known(run.grain, config.runs.grain, where, "grain run")
    kind = "grain" if isinstance(run, GrainRun) else "dit" if isinstance(run, DitRun) else "content"
    batch = getattr(config.training, kind).batch
    _require(
        run.images is None or run.images >= batch,
        f"{where}.images is {run.images}, less than one batch of {batch}.",
    )
    if not isinstance(run, GrainRun):
        data = config.runs.dvae[run.latents].data
        _require(
            run.data == data, f"{where}.data is {run.data!r}, but its latents are of {data!r}."
        )
        for label, measured in run.evaluations.items():
            _require(
                0 < measured.at <= 1,
                f"{where}.evaluations.{label}.at is {measured.at}, but must lie in (0, 1].",
            )


def _check_model(config: Config) -> None:
    factors = config.model.factors
    _require(
        len(factors) >= 2 and all(a == 2 * b for a, b in zip(factors, factors[1:], strict=False)),
        f"model.factors is {factors}, but must halve from coarse to fine, e.g. [16, 8].",
    )
    for name, size in config.model.sizes.items():
        _require(
            size.width % 4 == 0 and size.width % size.heads == 0,
            f"model.sizes.{name}: the width {size.width} must be a multiple of 4 "
            f"and of its {size.heads} heads.",
        )


def _check_training(config: Config) -> None:
    for kind, training in vars(config.training).items():
        shards, batch = training.shards, training.batch
        _require(
            shards >= 1 and shards & (shards - 1) == 0 and batch % shards == 0,
            f"training.{kind}.shards is {shards}, but must be a power of two "
            f"that divides the batch {batch}.",
        )
        _require(
            training.images >= batch,
            f"training.{kind}.images is {training.images}, less than one batch of {batch}.",
        )
