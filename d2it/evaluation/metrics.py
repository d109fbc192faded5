"""Numbers for sets of features: Fréchet and kernel distance, Inception Score.

Sums are in fp64, and nothing is left to chance.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import LinAlgError, eigh
from torch import Tensor

from d2it.errors import UserError
from d2it.machine.device import Device
from d2it.machine.rows import by_rows, products

CACHED = 32  # of them in fp64, as many as a CPU's cache holds
ROWS = 4096  # features held at once in fp64


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of n features; the covariance as itself or as a factor F with C = FᵀF.

    The centred features over sqrt(n - 1) are such a factor: exact, and small when n is small.
    """

    n: int
    mean: Tensor  # (d,)
    matrix: Tensor  # covariance (d, d), or a factor of it (m, d)
    factored: bool = False

    @classmethod
    def of(cls, features: np.ndarray | Tensor, device: Device = "cpu") -> "Gaussian":
        x = torch.as_tensor(features)
        n, dimensions = x.shape
        if n < 2:
            raise UserError(
                f"A distance needs at least two images, but there are {n}: give or draw more."
            )
        if n > dimensions:

            def of(rows: slice) -> tuple[Tensor, Tensor]:
                some = x[rows].to(device).double()
                return some.sum(0), products(some.T, some.T)

            total = torch.zeros(dimensions, dtype=torch.float64, device=device)
            outer = total.new_zeros(dimensions, dimensions)
            for sums, squares in by_rows(of, n, device, ROWS):
                total += sums
                outer += squares
            mean = total / n
            return cls(n, mean, outer.addr_(mean, mean, alpha=-n).div_(n - 1))
        x = x.to(device).double()
        mean = x.mean(0)
        return cls(n, mean, (x - mean) / (n - 1) ** 0.5, factored=True)

    @property
    def variance(self) -> Tensor:
        """Trace of the covariance."""
        return self.matrix.square().sum() if self.factored else self.matrix.trace()

    def to(self, device: Device) -> "Gaussian":
        return replace(self, mean=self.mean.to(device), matrix=self.matrix.to(device))

    def factor(self) -> "Gaussian":
        """The same with its covariance factored."""
        if self.factored:
            return self
        values, vectors = torch.linalg.eigh(self.matrix)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
        return Gaussian(self.n, self.mean, root, factored=True)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|² + tr(A + B - 2 (AB)^½): the squared Fréchet distance of Gaussians."""
    b = b.to(a.mean.device)
    distance = (a.mean - b.mean).square().sum() + a.variance + b.variance - 2 * _trace_root(a, b)
    return float(distance.clamp(min=0))  # rounding leaves equal sets on either side of it


def _trace_root(a: Gaussian, b: Gaussian) -> Tensor:
    """tr (AB)^½, never by a matrix square root.

    The eigenvalues of AB are those of a generalised symmetric problem where B has full rank. With
    A = FᵀF they are those of F B Fᵀ; where also B = GᵀG, their roots are the singular values of
    F Gᵀ. For two small sets that is an n x n matrix: exact, in milliseconds.
    """
    if not (a.factored or b.factored) and a.mean.device.type == "cpu":  # no GPU solves that one
        with suppress(LinAlgError):  # B lacks rank
            roots = eigh(a.matrix, b.matrix, type=2, eigvals_only=True, driver="gv")
            return torch.from_numpy(roots).clamp(min=0).sqrt().sum()
    left, right = (a, b) if a.factored else (b.factor(), a)
    if right.factored:
        return torch.linalg.svdvals(left.matrix @ right.matrix.T).sum()
    product = left.matrix @ right.matrix @ left.matrix.T
    return torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()


def kernel_distance(a: np.ndarray, b: np.ndarray, device: Device = "cpu") -> float:
    """KID: the unbiased squared MMD with the kernel (x·y / d + 1)³ of whole sets.

    Products are of features from a common centre in fp32, where they round least. What the centre
    adds to them, the kernel and its sums are in fp64.
    """
    x, y = (torch.as_tensor(np.array(features)).to(device) for features in (a, b))
    n, m, centre = len(x), len(y), y.mean(0)
    (x, u), (y, v) = (_centred(features, centre) for features in (x, y))

    def of(rows: slice) -> Tensor:
        own = [_within(some, rest, rows) for some, rest in ((x, u), (y, v))]
        return torch.stack([*own, _cubes(products(x[rows], y), u[rows], v)])

    own_x, own_y, between = torch.stack(list(by_rows(of, max(n, m), x.device))).sum(0)
    found = own_x / (n * (n - 1)) + own_y / (m * (m - 1)) - 2 * between / (n * m)
    return float(found) / len(centre) ** 3


def _centred(features: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """x' = x - c (n, d), and u (n,) in fp64 such that x·y + d = x'·y' + u + v."""
    c = centre.double()
    near, u = torch.empty_like(features), c.new_empty(len(features))

    def of(rows: slice) -> None:
        torch.sub(features[rows], centre, out=near[rows])
        u[rows] = near[rows].double() @ c + (c @ c + len(c)) / 2

    for _ in by_rows(of, len(features), features.device):
        pass
    return near, u


def _within(x: Tensor, u: Tensor, rows: slice) -> Tensor:
    """Sum of d³ times the kernel: of the rows with each other, and twice with all later ones."""
    own, later = products(x[rows], x[rows]), slice(rows.stop, None)
    diagonal = (own.diagonal().double() + 2 * u[rows]).pow(3).sum()
    others = _cubes(products(x[rows], x[later]), u[rows], u[later])
    return _cubes(own, u[rows], u[rows]) - diagonal + 2 * others


def _cubes(xy: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Sum of (x'·y' + u + v)³ over all pairs."""
    parts = zip(xy.split(CACHED), u.split(CACHED), strict=True)
    return sum(
        ((part.double() + some[:, None]).add_(v).pow_(3).sum() for part, some in parts),
        u.new_zeros(()),
    )


def inception_score(log_probabilities: np.ndarray | Tensor, split: int = 5000) -> float:
    """exp of the mean KL(p(y|x) || p(y)), (N, classes) -> the mean over splits (Salimans et al.).

    Splits are consecutive images, 5,000 as in ADM's evaluator: ten of FID-50K's.
    """
    scores = []
    for part in torch.as_tensor(log_probabilities).double().split(split):
        marginal = part.logsumexp(0) - np.log(len(part))  # log p(y)
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    return sum(scores) / len(scores)
