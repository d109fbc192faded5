"""Nearest neighbours among features: precision and recall, and how near samples are to an image.

All distances are found in fp32, about the centre of the features; those that its rounding leaves in
doubt are computed again in fp64. So the results are fp64's, in the time of fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2it.errors import UserError
from d2it.machine.device import Device
from d2it.machine.rows import by_rows, products

# Pairs of features held at once in fp64: what a CPU's cache holds, and what keeps a GPU busy.
PAIRS, PAIRS_OF_A_GPU = 2**7, 2**14
ROUNDING = 2.0**-24  # of one fp32 operation


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, neighbours: int = 3, device: Device = "cpu"
) -> tuple[float, float]:
    """Shares of samples inside the reference's manifold and of the reference inside the samples'.

    A set's manifold is the union of balls that reach from each of its points to the k-th neighbour
    (Kynkäänniemi et al. 2019).
    """
    fewest = min(len(samples), len(reference))
    if fewest <= neighbours:
        raise UserError(
            f"Precision and recall need more than {neighbours} images, but there are {fewest}."
        )
    x, y = clouds(device, samples, reference)
    # a centre is its own nearest point, at 0, hence the (k + 1)-th
    radii = [kth_distances(cloud, cloud, neighbours + 1) for cloud in (x, y)]
    precise, recalled = inside(x, y, *radii)
    return float(precise.double().mean()), float(recalled.double().mean())


def nearest_distance(points: np.ndarray, centres: np.ndarray, device: Device = "cpu") -> float:
    """Mean distance of `points` (n, d) from the nearest of `centres` (m, d)."""
    x, y = clouds(device, points, centres)
    return float(kth_distances(x, y, 1).sqrt().mean())


@dataclass(frozen=True)
class Cloud:
    """n features of width d."""

    exact: Tensor  # (n, d) as given
    near: Tensor  # (n, d) fp32, from a common centre: small numbers are rounded finely
    squares: Tensor  # (n,) fp32, their squared lengths

    def __len__(self) -> int:
        return len(self.exact)


def clouds(device: Device, *sets: np.ndarray) -> list[Cloud]:
    """From the mean of the last."""
    given = [torch.as_tensor(np.array(some)).to(device) for some in sets]
    centre = given[-1].mean(0).double()
    found = []
    for exact in given:
        near = torch.empty_like(exact, dtype=torch.float32)
        cloud = Cloud(exact, near, near.new_empty(len(exact)))

        def of(rows: slice, cloud: Cloud = cloud) -> None:
            near = cloud.near[rows].copy_(cloud.exact[rows] - centre)
            cloud.squares[rows] = near.double().square().sum(1)

        for _ in by_rows(of, len(exact), device):
            pass
        found.append(cloud)
    return found


def rough(x: Cloud, rows: slice, y: Cloud) -> tuple[Tensor, Tensor]:
    """Squared distances (n, m) in fp32, and by how much they may be wrong at most, ()."""
    squares = x.squares[rows, None]
    squared = products(x.near[rows], y.near).mul_(-2).add_(squares).add_(y.squares)
    # In any order, d products of numbers are summed to within d roundings of |x| |y|, and that is
    # (|x| + |y|)² / 4 at most. Centring, the other sums and rounded radii add a few.
    longest = (squares.max().sqrt() + y.squares.max().sqrt()).square()
    return squared, (x.near.shape[1] / 2 + 8) * ROUNDING * longest


def settled(x: Cloud, i: Tensor, y: Cloud, j: Tensor) -> Tensor:
    """Squared distances of the pairs (i, j) in fp64, (p,): 0 of equal features."""
    count = PAIRS if i.device.type == "cpu" else PAIRS_OF_A_GPU
    pairs = zip(i.split(count), j.split(count), strict=True)
    return torch.cat([(x.exact[a].double() - y.exact[b]).square_().sum(1) for a, b in pairs])


def kth_distances(x: Cloud, y: Cloud, k: int) -> Tensor:
    """Squared distance of each of x from its k-th nearest of y, (n,) fp64."""

    def of(rows: slice) -> Tensor:
        squared, doubt = rough(x, rows, y)
        reach = squared.topk(k, largest=False).values[:, -1:] + 2 * doubt
        row, j = (squared <= reach).nonzero(as_tuple=True)  # the k nearest, and others in doubt
        exact = settled(x, row + rows.start, y, j)
        order = exact.argsort()
        order = order[row[order].argsort(stable=True)]  # by row, and within it by distance
        first = torch.searchsorted(row, torch.arange(len(squared), device=row.device))
        return exact[order[first + k - 1]]

    return torch.cat(list(by_rows(of, len(x), x.near.device)))


def inside(x: Cloud, y: Cloud, radii_x: Tensor, radii_y: Tensor) -> tuple[Tensor, Tensor]:
    """Which of x lie in a ball around one of y, and which of y in one of x, (n,) and (m,) bool.

    The radii are squared, fp64.
    """

    def of(rows: slice) -> tuple[Tensor, Tensor]:
        squared, doubt = rough(x, rows, y)

        def exact(i: Tensor, j: Tensor) -> Tensor:
            return settled(x, i + rows.start, y, j)

        own = covered(squared, radii_y, doubt, exact)
        return own, covered(squared.T, radii_x[rows], doubt, lambda j, i: exact(i, j))

    own, others = zip(*by_rows(of, len(x), x.near.device), strict=True)
    return torch.cat(own), torch.stack(others).any(0)


def covered(
    squared: Tensor, radii: Tensor, doubt: Tensor, exact: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Which rows (n,) have a distance (n, m) within its column's radius (m,)."""
    found = (squared <= (radii - doubt).float()).any(1)
    perhaps = squared <= (radii + doubt).float()
    open = (perhaps.any(1) & ~found).nonzero()[:, 0]
    row, j = perhaps[open].nonzero(as_tuple=True)
    row = open[row]
    found[row[exact(row, j) <= radii[j]]] = True
    return found
