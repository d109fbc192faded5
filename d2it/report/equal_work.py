"""The difference of a pair at equal work: the dearer network is taken when its training had cost
what the other's did in all, on the line between the moments at which it was measured.

What a D²iT costs is read in three ways: dense, every window of its RefineNet; measured, the windows
that hold a fine region of a photograph; fine only, the fine regions' own tokens.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from d2it.config.run import runs_of
from d2it.config.schema import Config
from d2it.report.claims import Pair, along
from d2it.report.compute import READINGS, pass_gmacs
from d2it.report.results import Gap, evaluations_of, result


class AtEqual(NamedTuple):
    """The difference where both have cost the same, in % of the second."""

    mean: float
    low: float
    high: float
    seeds: int


def interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Student's t-interval of the mean; of a single difference nothing is known."""
    from scipy.stats import t

    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return -math.inf, math.inf
    half = t.ppf((1 + level) / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


def at_equal_work(
    pair: Pair, paired: Sequence[tuple[str, str]], level: float, config: Config
) -> dict[str, AtEqual | str]:
    """By reading for which both sides' work is known; a word where there is nothing to compare."""
    if not paired or not pair.of_whole_trainings or pair.run == pair.than:
        return {}
    first, second = (pass_gmacs(config, result(config, run)) for run in paired[0])
    return {
        reading: _over_seeds(pair, paired, (first[reading], second[reading]), level, config)
        for reading in READINGS
        if reading in first and reading in second
    }


def _over_seeds(
    pair: Pair,
    paired: Sequence[tuple[str, str]],
    costs: tuple[float, float],
    level: float,
    config: Config,
) -> AtEqual | str:
    if costs[0] == costs[1]:
        return "equal"
    both = [_at_least(config, runs, costs, pair.metric) for runs in paired]
    found = [one for one in both if one]
    if not found:
        return "not measured"
    differences = [first - second for first, second in found]
    whole = statistics.fmean(second for _, second in found) / 100
    low, high = interval(differences, level)
    return AtEqual(statistics.fmean(differences) / whole, low / whole, high / whole, len(found))


def _at_least(
    config: Config, runs: tuple[str, str], costs: tuple[float, float], metric: str
) -> tuple[float, float] | None:
    """The metric of both when each had cost what the cheaper one does in all."""
    first, second = (
        _moment(config, run, metric, min(costs) / own) for run, own in zip(runs, costs, strict=True)
    )
    return None if first is None or second is None else (first, second)


def _moment(config: Config, run: str, metric: str, share: float) -> float | None:
    """The metric after this share of the training, on the line between two measured moments."""
    known, found = runs_of(config)[run], evaluations_of(config, run)
    every = {} if isinstance(found, Gap) else found
    points = [
        (known.evaluations[label].at, every[label].metrics[metric])
        for _, label in sorted(along(known).items())
        if label in every and metric in every[label].metrics
    ]
    for (early, a), (late, b) in pairwise([*points, *points[-1:]]):
        if early <= share <= late:
            return a if late == early else a + (b - a) * (share - early) / (late - early)
    return None
