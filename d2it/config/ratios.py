"""Ratios: how large a share of the regions each grain has, for any number of grains. No torch."""

from collections.abc import Iterable, Sequence

from d2it.config.types import Learned, Ratio

ROUNDING = 1e-6  # shares such as .7, .2 and .1 do not quite sum to 1


def shares(ratio: float | Sequence[float]) -> list[float]:
    """Shares of grains 1..k-1: a number is the share of the finer one of two."""
    return [float(ratio)] if isinstance(ratio, (int, float)) else list(ratio)


def at_least(ratio: float | Sequence[float]) -> list[float]:
    """Shares of the regions of grain i or finer, i = 1..k-1: [.2, .3] -> [.5, .3]."""
    finer = shares(ratio)
    sums = [sum(finer[i:]) for i in range(len(finer))]
    return [1.0 if total > 1 - ROUNDING else total for total in sums]


def is_constant(ratio: Learned) -> bool:
    """Whether every region of every image has the same grain, which no thresholds decide."""
    return not isinstance(ratio, str) and set(at_least(ratio)) <= {0.0, 1.0}


def numeric(ratios: Iterable[Learned]) -> list[Ratio]:
    """Without "random", which no single image has."""
    return [ratio for ratio in ratios if not isinstance(ratio, str)]


def half_finest(grains: int) -> Ratio:
    """Half of the regions finest, the others in equal parts of all other grains: .5, [.25, .5]."""
    return 0.5 if grains == 2 else [0.5 / (grains - 1)] * (grains - 2) + [0.5]


def finest(grains: int) -> Ratio:
    """The ratio of which every region is of the finest of k grains: 1, or [0, ..., 0, 1]."""
    return 1.0 if grains == 2 else [0.0] * (grains - 2) + [1.0]
