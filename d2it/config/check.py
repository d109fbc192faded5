"""What types cannot say of a configuration: what settings must be together."""

import operator
from collections.abc import Collection
from typing import Any

from d2it.config.experiments import ContentRun, DitRun, DvaeRun, GrainRun, Measured
from d2it.config.protocols import METRICS, OF_RUNS
from d2it.config.ratios import finest, is_constant, shares
from d2it.config.recipe import (
    KINDS,
    factors_of,
    ratio_key,
    repeats_of,
    thresholds_source,
    training_seed,
)
from d2it.config.schema import Config, Dataset, Diffusion, Evaluation, Sampling
from d2it.config.settings import fields_of, walk
from d2it.config.typed import check_name, nearest
from d2it.config.types import Learned, Range, Ratio
from d2it.errors import UserError

OPERATORS = {
    "at least": operator.ge,
    "at most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}


def check_meaning(config: Config) -> None:
    """Raise the sentence for the first setting that makes no sense."""
    check_name(config.name, "name")
    check_ranges(config)
    _check_factors(config.model.factors, "model.factors")
    _check_factors(config.model.factors_three, "model.factors_three")
    _check_sizes(config)
    _check_training(config)
    check_sampling(config.sampling, config.diffusion, config.model.latent_channels)
    _check_evaluation(config.evaluation)
    check_ratio(config.ratio, len(config.model.factors), "ratio")
    first, last = config.grey_range
    require(first < last, f"grey_range is [{first}, {last}], but must rise.")
    for task, data in config.task.items():
        _known(data, config.data, f"task.{task}", "data set")
    for name, dataset in config.data.items():
        low, high = dataset.crop
        require(low <= high, f"data.{name}.crop is [{low}, {high}], but must rise.")
        _check_second(dataset, f"data.{name}")
    for name, dvae in config.runs.dvae.items():
        _check_dvae(config, dvae, factors_of(config, name), f"runs.dvae.{name}")
    for kind in ("grain", "content", "dit"):
        for name, run in getattr(config.runs, kind).items():
            _check_run(config, run, f"runs.{kind}.{name}")
    _check_repeats(config)


def check_ranges(table: Any, where: str = "") -> None:
    """Every number of a table of settings, and of those in it."""
    for setting, value in walk(table):
        for number in numbers(value) if setting.range else ():
            check_number(number, ".".join(filter(None, [where, setting.name])), setting.range)


def numbers(value: Any) -> list[float]:
    """The numbers of a setting."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    return [e for e in entries if isinstance(e, (int, float)) and not isinstance(e, bool)]


def check_guidance(guidance: float, where: str = "--guidance") -> None:
    check_number(guidance, where, fields_of(Measured)["guidance"].range)


def check_number(number: float, where: str, range: Range) -> None:
    """Hold a number of a setting or an option against a range."""
    for bound in range.split(" and "):
        words, _, limit = bound.rpartition(" ")
        require(
            OPERATORS[words](number, float(limit)),
            f"{where} is {number}, but must be {range}.",
        )


def check_ratio(ratio: Ratio | str, grains: int, where: str) -> None:
    """Shares of the k-1 finer grains: each in [0, 1], together at most 1."""
    if isinstance(ratio, str):
        return
    finer = shares(ratio)
    require(
        all(0 <= share <= 1 for share in finer) and sum(finer) <= 1 + 1e-9,
        f"{where} is {ratio}, but a share of regions lies in [0, 1] (and shares sum to at most 1).",
    )
    require(
        len(finer) == grains - 1,
        f"{where} has {len(finer)} share{'s' * (len(finer) > 1)}, but {grains} grains need "
        f"{grains - 1}: one for each but the coarsest.",
    )


def check_asked(ratio: Ratio, learned: Learned, grains: int, where: str) -> None:
    """Whether a network that learnt from these ratios draws at the one asked for."""
    check_ratio(ratio, grains, where)
    require(
        isinstance(learned, str) or ratio_key(ratio) == ratio_key(learned),
        f"{where} is {ratio_key(ratio)}, but this run was trained for {ratio_key(learned)} alone: "
        "leave it out, or take a run whose ratio is random, such as d2it_b_elastic.",
    )


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def _known(name: str, choices: Collection[str], where: str, what: str) -> None:
    if name not in choices:
        near = nearest(name, list(choices))
        raise UserError(f"{where} names the {what} {name!r}, which this scale does not have{near}.")


def _check_second(dataset: Dataset, where: str) -> None:
    second = dataset.second_protocol
    require(
        second != dataset.protocol,
        f"{where}.second_protocol is {second} too: name the other one, or set it to null.",
    )
    require(
        second is None or not isinstance(dataset.reference, str),
        f"{where}.second_protocol is {second}, but {dataset.reference} is of one protocol: set it "
        f"to null, or {where}.reference to null, for the training images.",
    )


def _check_dvae(config: Config, dvae: DvaeRun, factors: list[int], where: str) -> None:
    _known(dvae.data, config.data, where, "data set")
    source = thresholds_source(config, dvae.data)
    _known(source, config.data, f"data.{dvae.data}.thresholds_from", "data set")
    require(
        dvae.thresholds == source,
        f"{where}.thresholds is {dvae.thresholds!r}, but must be {source!r}: {dvae.data} takes its "
        "thresholds from there.",
    )
    _check_factors(factors, f"{where}.factors")
    check_ratio(dvae.ratio, len(factors), f"{where}.ratio")
    for ratio in dvae.ratios:
        check_ratio(ratio, len(factors), f"{where}.ratios")
    batch = config.training.dvae.batch
    require(
        dvae.images is None or dvae.images >= batch,
        f"{where}.images is {dvae.images}, less than one batch of {batch}.",
    )
    stages = factors[0].bit_length()
    require(
        len(config.model.dvae.multipliers) >= stages,
        f"model.dvae.multipliers has {len(config.model.dvae.multipliers)} stages, but the factor "
        f"{factors[0]} of {where} needs {stages}: add a multiplier for each halving.",
    )
    size = config.data[dvae.data].size
    require(
        size % factors[0] == 0,
        f"{where}: {size} px do not divide into regions of {factors[0]} px.",
    )


def _check_run(config: Config, run: GrainRun | ContentRun | DitRun, where: str) -> None:
    _known(run.latents, config.runs.dvae, where, "DVAE")
    _known(run.size, config.model.sizes, where, "size")
    grains = len(factors_of(config, run.latents))
    if not isinstance(run, DitRun):
        check_ratio(run.ratio, grains, f"{where}.ratio")
    if isinstance(run, GrainRun):
        require(
            not is_constant(run.ratio),
            f"{where}.ratio is {run.ratio}, but a constant map needs no grain transformer: set a "
            "ratio strictly between 0 and 1 (d2it_b_r0 and d2it_b_r100 of Figure 5 are its ends).",
        )
    ratio = finest(grains) if isinstance(run, DitRun) else run.ratio
    require(
        ratio_key(ratio) in [ratio_key(each) for each in config.runs.dvae[run.latents].ratios],
        f"{where} learns from {run.latents} at ratio {ratio_key(ratio)}, which its latents are not "
        f"measured at: add it to runs.dvae.{run.latents}.ratios.",
    )
    if isinstance(run, ContentRun):
        _check_windows(config, run, where)
        if run.grain is not None:
            _known(run.grain, config.runs.grain, where, "grain run")
            _check_grains(config, run, config.runs.grain[run.grain], where)
    kind = "grain" if isinstance(run, GrainRun) else "dit" if isinstance(run, DitRun) else "content"
    batch = getattr(config.training, kind).batch
    require(
        run.images is None or run.images >= batch,
        f"{where}.images is {run.images}, less than one batch of {batch}.",
    )
    if not isinstance(run, GrainRun):
        data = config.runs.dvae[run.latents].data
        require(run.data == data, f"{where}.data is {run.data!r}, but its latents are of {data!r}.")
        require(bool(run.evaluations), f"{where}.evaluations is empty: keep at least main.")
        for label, measured in run.evaluations.items():
            words, weights = f"{where}.evaluations.{label}", measured.weights
            if measured.ratio is not None:
                check_asked(measured.ratio, ratio, grains, f"{words}.ratio")
            require(
                weights == "ema" or measured.at == 1,
                f"{words} asks for {weights} weights at {measured.at}, but they are kept of the "
                "end alone: set its at to 1.",
            )
            require(
                isinstance(weights, str) or getattr(config.training, kind).snapshot_images > 0,
                f"{words} asks for an average of relative width {weights}, but without snapshots "
                f"there is none: set training.{kind}.snapshot_images, e.g. to a fiftieth of its "
                "images.",
            )


def _check_repeats(config: Config) -> None:
    """Repeats are one experiment again: the same settings under another name."""
    runs = {name: run for kind in KINDS for name, run in getattr(config.runs, kind).items()}
    for name, count in config.repeats.items():
        where = f"repeats.{name}"
        require(training_seed(config, name) == 0, f"{where} repeats what is itself a repeat.")
        for repeat in repeats_of(config, name):
            _known(repeat, runs, where, "run")
            require(
                runs[repeat] == runs[name],
                f"{where} is {count}, but the settings of {repeat} differ from {name}'s: repeats "
                "differ in their training seed alone.",
            )


def _check_grains(config: Config, run: ContentRun, grain: GrainRun, where: str) -> None:
    """Maps fit the latents if both have the same regions and grains, in the same shares. A run that
    only other maps are drawn for (`maps` of its evaluations) needs no grain run.
    """
    ours, theirs = factors_of(config, run.latents), factors_of(config, grain.latents)
    require(
        ours == theirs,
        f"{where}.grain is {run.grain!r}, which draws maps of the factors {theirs}, but its "
        f"latents have {ours}: name a grain run of those latents.",
    )
    require(
        is_constant(run.ratio) or ratio_key(run.ratio) == ratio_key(grain.ratio),
        f"{where}.ratio is {ratio_key(run.ratio)}, but {run.grain}, which draws its maps, has "
        f"{ratio_key(grain.ratio)}: set runs.grain.{run.grain}.ratio={ratio_key(run.ratio)} too, "
        "or name another grain run.",
    )


def _check_windows(config: Config, run: ContentRun, where: str) -> None:
    """The first RefineNet has the fewest tokens: one for each code of grain 1."""
    side = config.data[config.runs.dvae[run.latents].data].size
    tokens = side // factors_of(config, run.latents)[1]
    require(
        tokens % config.model.window == 0,
        f"model.window is {config.model.window}, but must divide the {tokens} x {tokens} "
        f"{'fine tokens' if len(factors_of(config, run.latents)) == 2 else 'tokens of grain 1'} "
        f"of {where}.",
    )


def _check_factors(factors: list[int], where: str) -> None:
    require(
        len(factors) >= 2 and all(a == 2 * b for a, b in zip(factors, factors[1:], strict=False)),
        f"{where} is {factors}, but must halve from coarse to fine, e.g. [16, 8].",
    )
    require(
        factors[-1].bit_count() == 1,
        f"{where} is {factors}, but must be powers of two, e.g. [16, 8].",
    )


def _check_sizes(config: Config) -> None:
    for name, size in config.model.sizes.items():
        require(
            size.width % 4 == 0 and size.width % size.heads == 0,
            f"model.sizes.{name}: the width {size.width} must be a multiple of 4 "
            f"and of its {size.heads} heads.",
        )


def _check_training(config: Config) -> None:
    for kind, training in vars(config.training).items():
        shards, batch = training.shards, training.batch
        require(
            shards >= 1 and shards & (shards - 1) == 0 and batch % shards == 0,
            f"training.{kind}.shards is {shards}, but must be a power of two "
            f"that divides the batch {batch}.",
        )
        require(
            training.images >= batch,
            f"training.{kind}.images is {training.images}, less than one batch of {batch}.",
        )
    loss, images = config.dvae_loss, config.training.dvae.images
    require(
        loss.gan_weight == 0 or 3 * loss.gan_start <= 2 * images,
        f"dvae_loss.gan_start is {loss.gan_start}, but must be at most {2 * images // 3}: the "
        f"discriminator takes part in the last third of training.dvae.images = {images} at least.",
    )


def check_sampling(sampling: Sampling, diffusion: Diffusion, channels: int) -> None:
    """channels: of the latents."""
    require(
        diffusion.beta_start <= diffusion.beta_end,
        f"diffusion.beta_start is {diffusion.beta_start}, but must not be above beta_end, "
        f"{diffusion.beta_end}.",
    )
    for name, value, most, what in (
        ("steps", sampling.steps, diffusion.timesteps, "diffusion.timesteps"),
        ("grain_steps", sampling.grain_steps, diffusion.timesteps, "diffusion.timesteps"),
        ("guided_channels", sampling.guided_channels or 1, channels, "model.latent_channels"),
    ):
        require(value <= most, f"sampling.{name} is {value}, but must be at most {what}, {most}.")


def _check_evaluation(evaluation: Evaluation) -> None:
    require(len(evaluation.seeds) >= 1, "evaluation.seeds is empty, but needs at least one seed.")
    for metric in evaluation.metrics or []:
        near = nearest(metric, [*METRICS, *OF_RUNS])
        require(
            metric in (*METRICS, *OF_RUNS),
            f"evaluation.metrics names {metric!r}, which is no metric{near}.",
        )
