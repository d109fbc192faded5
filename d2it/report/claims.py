"""The paper's claims, each held against runs of ours.

An effect is the difference of a metric between two runs of the same training seed, which saw the
same images in the same order. Its t-interval over the training seeds decides, at equal steps. The
same is said at equal work: the dearer one is taken when it had cost what the other one did, between
the moments at which it was measured.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from d2it.config.load import params_folder
from d2it.config.recipe import repeats_of
from d2it.config.run import run_of
from d2it.config.schema import Config
from d2it.config.study import at_scale
from d2it.config.typed import build
from d2it.errors import UserError
from d2it.report.results import Gap, Result, result
from d2it.runs import provenance

Verdict = Literal["holds", "does not hold", "not decidable", "incomplete", "not run"]
HIGHER_IS_BETTER = ("obedience", "precision", "psnr", "recall", "ssim")
# What the same noise is predicted from: networks on other latents have another task, whatever their
# errors. A D²iT's coarse regions hold one code and one noise each, which a DiT's never do.
SAME_LATENTS = ("dvae_sha256", "latent_scale", "epsilon_images")


@dataclass(frozen=True)
class Pair:
    """Two evaluations that are compared."""

    run: str
    than: str
    label: str = "main"  # of the run's evaluations; with a `*`, the one with the lowest FID
    than_label: str = "main"
    metric: str = "fid"
    expect: Literal["better", "equal"] = "better"
    within: float = 0.0  # share of the other's value that counts as equal
    published: list[float] | None = None  # the paper's two values
    also: list[str] = field(default_factory=list)  # metrics that are shown too, and decide nothing

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.run, self.label), (self.than, self.than_label)

    @property
    def of_whole_trainings(self) -> bool:
        """Of two networks that draw, each after all of its training."""
        return {self.label, self.than_label} == {"main"} and self.metric != "rfid"


class AtEqual(NamedTuple):
    """The difference where both have cost the same, in % of the second."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Claim:
    says: str
    pairs: list[Pair]
    beside: list[Pair] = field(default_factory=list)  # that are shown too, and decide nothing


@dataclass(frozen=True)
class Claims:
    level: float  # of the intervals
    claims: dict[str, Claim]  # by id, in order of priority
    untested: dict[str, str] = field(default_factory=dict)  # id: why


@dataclass(frozen=True)
class Effect:
    """Of one pair, over training seeds."""

    pair: Pair
    asked: int  # seeds of the scale
    found: list[tuple[Result, Result]]  # by seed, where both sides are evaluated
    low: float
    high: float
    verdict: Verdict
    why: str = ""  # a seed lacks
    worked: AtEqual | None = None

    @property
    def mean(self) -> float:
        return self.average(0) - self.average(1)

    @property
    def p(self) -> float:
        """Of Student's test, two-sided, that the differences are zero in the mean."""
        from scipy.stats import t

        differences = _differences(self.pair, self.found)
        if len(differences) < 2 or not any(differences):
            return 1.0
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        return 2 * float(t.sf(abs(self.mean) / error, len(differences) - 1)) if error else 0.0

    def average(self, side: int, metric: str | None = None) -> float:
        """Over the seeds, of the first (0) or the second (1)."""
        return statistics.fmean(
            both[side].metrics[metric or self.pair.metric] for both in self.found
        )

    @property
    def results(self) -> list[Result]:
        """Each once, side by side for one seed after the other."""
        return list({(one.run, one.label): one for both in self.found for one in both}.values())


def load_claims(path: Path | None = None) -> Claims:
    path = path or params_folder() / "claims.yaml"
    try:
        return build(Claims, yaml.safe_load(path.read_text(encoding="utf-8")), "claims")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def needed(claims: Claims, config: Config) -> list[str]:
    """The runs of the scale that the claims are held against, in order of priority."""
    pairs = [pair for c in claims.claims.values() for pair in (*c.pairs, *c.beside)]
    experiments = [run for pair in pairs for run, _ in pair.sides]
    runs = [run for name in dict.fromkeys(experiments) for run in repeats_of(config, name)]
    return [run for run in runs if at_scale(config, run)]


def interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Student's t-interval of the mean; of a single difference nothing is known."""
    from scipy.stats import t

    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return -math.inf, math.inf
    half = t.ppf((1 + level) / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


def effect(pair: Pair, level: float, config: Config) -> Effect:
    """The pair's differences, seed by seed, and what they say."""
    found, why = list[tuple[Result, Result]](), ""
    seeds = list(zip(repeats_of(config, pair.run), repeats_of(config, pair.than), strict=False))
    for runs in seeds:
        first, second = (
            _found(config, run, label, pair.metric)
            for run, (_, label) in zip(runs, pair.sides, strict=True)
        )
        if isinstance(first, Gap) or isinstance(second, Gap):
            why = next(one.why for one in (first, second) if isinstance(one, Gap))
        elif pair.metric.startswith("epsilon_error") and not _on_same_latents(first, second):
            why = "not on the same latents"
        else:
            found.append((first, second))
    if not found:
        return Effect(pair, len(seeds), [], -math.inf, math.inf, "not run", why)
    differences = _differences(pair, found)
    low, high = interval(differences, level)
    margin = pair.within * statistics.fmean(b.metrics[pair.metric] for _, b in found)
    worse = (-high, -low) if pair.metric in HIGHER_IS_BETTER else (low, high)
    verdict = decide(*worse, margin, pair.expect)
    paired = [(a.header["run"], b.header["run"]) for a, b in found]
    return Effect(
        pair,
        len(seeds),
        found,
        low,
        high,
        verdict,
        why,
        worked=_at_equal_work(pair, paired, level, config),
    )


def supporting(pair: Pair, level: float, config: Config) -> list[Effect]:
    """The pair by the metrics that stand beside its own: whether `run` is better by them."""
    plain = replace(pair, expect="better", within=0.0, published=None)
    return [effect(replace(plain, metric=name), level, config) for name in pair.also]


def _differences(pair: Pair, found: Sequence[tuple[Result, Result]]) -> list[float]:
    """By seed."""
    return [a.metrics[pair.metric] - b.metrics[pair.metric] for a, b in found]


def _on_same_latents(first: Result, second: Result) -> bool:
    return first.header["ratio"] == second.header["ratio"] and all(
        first.recipe.get(key) == second.recipe.get(key) for key in SAME_LATENTS
    )


def _at_equal_work(
    pair: Pair, paired: Sequence[tuple[str, str]], level: float, config: Config
) -> AtEqual | None:
    """The dearer one is taken after the share of its training that costs what the other's did;
    None: it was not measured then, or the costs are not known, or equal.
    """
    if not pair.of_whole_trainings:
        return None
    found: list[tuple[float, float]] = []
    for runs in paired:
        costs = [known for run in runs if (known := work(config, run))]
        if len(costs) < 2 or costs[0] == costs[1]:
            continue
        first, second = (
            _moment(config, run, pair.metric, min(costs) / own)
            for run, own in zip(runs, costs, strict=True)
        )
        if first is not None and second is not None:
            found.append((first, second))
    if not found:
        return None
    differences = [first - second for first, second in found]
    whole = statistics.fmean(second for _, second in found) / 100
    low, high = interval(differences, level)
    return AtEqual(statistics.fmean(differences) / whole, low / whole, high / whole, len(found))


def work(config: Config, run: str) -> float | None:
    """Multiplications of the network that is compared, an image: both sides see as many."""
    found = result(config, run)
    return None if isinstance(found, Gap) else found.header.get("gmacs", {}).get("dense")


def _moment(config: Config, run: str, metric: str, share: float) -> float | None:
    """The metric after this share of the training, on the line between two measured moments."""
    settings = run_of(config, run).evaluations
    alike = {m.at: label for label, m in settings.items() if replace(m, at=1.0) == settings["main"]}
    points = []
    for at, label in sorted(alike.items()):
        found = _found(config, run, label, metric)
        if isinstance(found, Result):
            points.append((at, found.metrics[metric]))
    for (early, a), (late, b) in pairwise([*points, *points[-1:]]):
        if early <= share <= late:
            return a if late == early else a + (b - a) * (share - early) / (late - early)
    return None


def hardware(config: Config, runs: Sequence[str]) -> str:
    """What all of these were trained on, as far as it is known."""
    told = [(provenance.of_run(run_of(config, run)) or {}).get("training") for run in runs]
    devices = sorted({device for one in told if one for device in one["devices"]})
    if len(devices) > 1:
        raise UserError(
            f"The claims' runs were trained on {' and '.join(devices)}: results of different "
            "hardware do not stand in one table, so make them anew on one of these."
        )
    processors = sorted({one for each in told if each for one in each.get("processors", [])})
    known = f" ({'; '.join(processors)})" if processors and devices == ["cpu"] else ""
    return f"{devices[0]}{known}" if devices else "not recorded"


def _found(config: Config, run: str, label: str, metric: str) -> Result | Gap:
    found = result(config, run, label)
    lacks = isinstance(found, Result) and metric not in found.metrics
    return Gap(f"evaluated without {metric}") if lacks else found


def decide(low: float, high: float, margin: float, expect: str) -> Verdict:
    """What an interval of differences says, where lower is better."""
    if expect == "equal":
        if -margin <= low and high <= margin:
            return "holds"
        return "does not hold" if high < -margin or low > margin else "not decidable"
    if high < 0:
        return "holds"
    return "does not hold" if low > 0 else "not decidable"


def stand_together(effects: Sequence[Effect], level: float) -> list[Effect]:
    """Those that are decided though all are tested at once: by Holm's correction, the surest first.

    What is said to be equal is no such test.
    """
    tested = sorted((one for one in effects if one.pair.expect == "better"), key=lambda one: one.p)
    for i, one in enumerate(tested):
        if one.p > (1 - level) / (len(tested) - i):
            return tested[:i]
    return tested


def verdict_of(effects: Sequence[Effect]) -> Verdict:
    """A claim falls with any of its pairs and stands with all."""
    verdicts = [one.verdict for one in effects]
    if "not run" in verdicts and "does not hold" not in verdicts:
        return "not run" if set(verdicts) == {"not run"} else "incomplete"
    worst: tuple[Verdict, ...] = ("does not hold", "not decidable", "holds", "not run")
    return min(verdicts, key=worst.index)
