"""Averages of the weights whose width is chosen afterwards: post-hoc EMA (Karras et al., "EDM2",
arXiv 2312.02696, section 3).

A power-function average weights the network after t images by t^g. Its width is a share of the
training so far, not a length. Two such averages are kept, with snapshots of them on the way; any
other is nearly a sum of snapshots with the right coefficients.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from d2it.runs import state
from d2it.runs.plan import Plan

WIDTHS = (0.05, 0.10)  # relative widths of the two averages, as in EDM2
FILE = "power"

Snapshot = tuple[int, float]  # images seen, relative width


@cache
def exponent(width: float) -> float:
    """g of the relative width (g + 1)^1/2 (g + 2)^-1 (g + 3)^-1/2 (Equations 123 and 126)."""
    return float(np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max())


class PowerAverages:
    """The two averages of a network's parameters, in fp32."""

    def __init__(self, module: nn.Module):
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = [p.detach() for p in module.parameters()]
        self.averages = {w: [p.float().clone() for p in self.parameters] for w in WIDTHS}
        self.exponents = {w: exponent(w) for w in WIDTHS}

    @torch.no_grad()
    def update(self, images: int, batch: int) -> None:
        """Take in the weights after `images` (see Ema.update)."""
        for width, averages in self.averages.items():
            new_share = 1 - (1 - batch / images) ** (self.exponents[width] + 1)  # Equation 127
            torch._foreach_lerp_(averages, self.parameters, new_share)

    def state_dict(self) -> state.Tensors:
        return {
            f"{width}/{name}": average
            for width, averages in self.averages.items()
            for name, average in zip(self.names, averages, strict=True)
        }

    @torch.no_grad()
    def load_state_dict(self, tensors: state.Tensors) -> None:
        for key, average in self.state_dict().items():
            average.copy_(tensors[key])


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
