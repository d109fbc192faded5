"""Averages of any width from the snapshots of two: post-hoc EMA (Karras et al., "EDM2",
arXiv 2312.02696, section 3)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from torch import Tensor

from d2it.runs import state
from d2it.runs.plan import Plan

WIDTHS = (0.05, 0.10)  # relative widths of the two averages, as in EDM2


FILE = "power"


Snapshot = tuple[int, float]  # images seen, relative width


@cache
def exponent(width: float) -> float:
    """g of the relative width (g + 1)^1/2 (g + 2)^-1 (g + 3)^-1/2 (Equations 123 and 126)."""
    return float(np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max())


def coefficients(snapshots: Sequence[Snapshot], wanted: Snapshot) -> np.ndarray:
    """What to multiply each snapshot with (Algorithm 3): least squares between weightings of time,
    which are the averages' own because averaging is linear.
    """
    coefficients = np.linalg.lstsq(
        np.array([[_overlap(one, other) for other in snapshots] for one in snapshots]),
        np.array([_overlap(one, wanted) for one in snapshots]),
    )[0]
    return coefficients / coefficients.sum()


def _overlap(one: Snapshot, other: Snapshot) -> float:
    """The integral over time of the product of two weightings (g + 1) t^g / T^(g + 1), each up to
    its own T (Equation 151); in logarithms, since T^g overflows.
    """
    (t, g), (u, h) = ((images, exponent(width)) for images, width in (one, other))
    power = (g + h + 1) * np.log(min(t, u)) - (g + 1) * np.log(t) - (h + 1) * np.log(u)
    return float((g + 1) * (h + 1) / (g + h + 1) * np.exp(power))


def reconstruct(plan: Plan, width: float) -> dict[str, Tensor]:
    """The state dict of a finished run's network, averaged with this relative width."""
    folders = [state.milestone_folder(plan.state, images) for images in plan.snapshots]
    kept = [state.open_state(f) for f in (*folders, state.state_folder(plan.state, plan.images))]
    snapshots = [(one.images, own) for one in kept for own in WIDTHS]
    shares = dict(zip(snapshots, coefficients(snapshots, (plan.images, width)), strict=True))
    sums: dict[str, Tensor] = {}
    for one in kept:
        for key, average in one.tensors(FILE).items():
            own, _, name = key.partition("/")
            term = shares[one.images, float(own)] * average.double()  # large terms cancel
            sums[name] = sums[name] + term if name in sums else term
    return kept[-1].tensors("model") | {name: total.float() for name, total in sums.items()}
