"""What runs say of a claim: the difference of a metric between two runs of the same training seed,
which saw the same images in the same order. Its t-interval over the training seeds decides.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from d2it.config.ratios import shares
from d2it.config.recipe import repeats_of
from d2it.config.run import run_of, runs_of
from d2it.config.schema import Config
from d2it.report.claims import CHANCE, Claims, Pair, labels_of
from d2it.report.equal_work import AtEqual, at_equal_work, interval
from d2it.report.results import Gap, Result, measured

Verdict = Literal["holds", "does not hold", "not decidable", "incomplete", "not run"]
HIGHER_IS_BETTER = ("obedience", "precision", "psnr", "recall", "ssim")
# What the same noise is predicted from: networks on other latents have another task, whatever their
# errors. A D²iT's coarse regions hold one code and one noise each, which a DiT's never do.
SAME_LATENTS = ("dvae_sha256", "latent_scale", "epsilon_images")


@dataclass(frozen=True)
class Effect:
    """Of one pair, over training seeds."""

    pair: Pair
    asked: int  # seeds of the scale
    found: list[tuple[Result, Result]] = field(default_factory=list)  # where both are evaluated
    low: float = -math.inf
    high: float = math.inf
    verdict: Verdict = "not run"
    why: str = ""  # a seed lacks
    worked: dict[str, AtEqual | str] = field(default_factory=dict)  # by reading of the work

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

    @property
    def single(self) -> bool:
        """Whether it is decided by the gap between one training of each."""
        return len(self.found) == 1 and math.isfinite(self.low)

    def average(self, side: int, metric: str | None = None) -> float:
        """Over the seeds, of the first (0) or the second (1)."""
        return statistics.fmean(
            both[side].metrics[metric or self.pair.metric] for both in self.found
        )

    @property
    def results(self) -> list[Result]:
        """Each once, side by side for one seed after the other."""
        every = [one for both in self.found for one in both if one.run != CHANCE]
        return list({(one.run, one.label): one for one in every}.values())


def effects(config: Config, claims: Claims) -> dict[str, list[Effect]]:
    """Of claims with the runs and labels of the scale."""
    return {
        name: [effect(pair, claims, config) for pair in claim.pairs]
        for name, claim in claims.claims.items()
    }


def effect(pair: Pair, claims: Claims, config: Config) -> Effect:
    """The pair's differences, seed by seed, and what they say."""
    found, why = list[tuple[Result, Result]](), ""
    seeds = _seeds(pair, config)
    for first, second in seeds:
        if isinstance(first, Gap) or isinstance(second, Gap):
            why = next(one.why for one in (first, second) if isinstance(one, Gap))
        elif pair.metric.startswith("epsilon_error") and not _on_same_latents(first, second):
            why = "not on the same latents"
        else:
            found.append((first, second))
    if not found:
        return Effect(pair, len(seeds), why=why)
    second_mean = statistics.fmean(b.metrics[pair.metric] for _, b in found)
    low, high = interval(_differences(pair, found), claims.level)
    if (
        len(seeds) == 1
        and pair.metric == "fid"
        and min(one.recipe["n"] for one in found[0]) >= claims.single.n
    ):
        gap, open_to = _differences(pair, found)[0], claims.single.gap * second_mean
        low, high = gap - open_to, gap + open_to
    worse = (-high, -low) if pair.metric in HIGHER_IS_BETTER else (low, high)
    verdict = decide(*worse, pair.within * second_mean, pair.expect)
    paired = [(a.header["run"], b.header["run"]) for a, b in found if pair.than != CHANCE]
    worked = at_equal_work(pair, paired, claims.level, config)
    return Effect(pair, len(seeds), found, low, high, verdict, why, worked)


def supporting(pair: Pair, claims: Claims, config: Config) -> list[Effect]:
    """The pair by the metrics that stand beside its own: whether `run` is better by them."""
    plain = replace(pair, expect="better", within=0.0, published=None)
    return [effect(replace(plain, metric=name), claims, config) for name in pair.also]


def _seeds(pair: Pair, config: Config) -> list[tuple[Result | Gap, Result | Gap]]:
    """Both sides of each seed that the scale asks for."""
    first, second = (
        [
            measured(config, run, labels_of(pair, side, runs_of(config)), pair.metric)
            for run in repeats_of(config, name)
        ]
        if name != CHANCE
        else []
        for side, (name, _) in enumerate(pair.sides)
    )
    second = second or [_by_chance(config, one, pair) for one in first]
    return list(zip(first, second, strict=False))


def _by_chance(config: Config, first: Result | Gap, pair: Pair) -> Result | Gap:
    """How often two maps of the run's shares agree that know nothing of each other."""
    if isinstance(first, Gap):
        return first
    finer = shares(run_of(config, pair.run).main_ratio)
    value = sum(share**2 for share in (1 - sum(finer), *finer))
    return replace(first, run=CHANCE, metrics={pair.metric: value}, header={}, recipe={})


def _differences(pair: Pair, found: Sequence[tuple[Result, Result]]) -> list[float]:
    """By seed."""
    return [a.metrics[pair.metric] - b.metrics[pair.metric] for a, b in found]


def _on_same_latents(first: Result, second: Result) -> bool:
    return first.header["ratio"] == second.header["ratio"] and all(
        first.recipe.get(key) == second.recipe.get(key) for key in SAME_LATENTS
    )


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
