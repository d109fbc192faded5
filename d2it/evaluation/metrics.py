"""Numbers for sets of features: Fréchet and kernel distance, precision and recall, Inception Score.

fp64, and nothing is left to chance.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import LinAlgError, eigh
from torch import Tensor

from d2it.errors import UserError

BLOCK = 1024  # rows of a distance matrix held at once
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
    def of(cls, features: np.ndarray | Tensor) -> "Gaussian":
        x = torch.as_tensor(features)
        n, dimensions = x.shape
        if n < 2:
            raise UserError(
                f"A distance needs at least two images, but there are {n}: give or draw more."
            )
        if n > dimensions:
            total, outer = np.zeros(dimensions), np.zeros((dimensions, dimensions))
            for rows in x.split(ROWS):
                some = rows.double().numpy()
                total += some.sum(0)
                outer += some.T @ some  # NumPy sees that it is symmetric, and computes half of it
            mean = torch.from_numpy(total / n)
            covariance = torch.from_numpy(outer).addr_(mean, mean, alpha=-n).div_(n - 1)
            return cls(n, mean, covariance)
        x = x.double()
        mean = x.mean(0)
        return cls(n, mean, (x - mean) / (n - 1) ** 0.5, factored=True)

    @property
    def variance(self) -> Tensor:
        """Trace of the covariance."""
        return self.matrix.square().sum() if self.factored else self.matrix.trace()

    def factor(self) -> "Gaussian":
        """The same with its covariance factored."""
        if self.factored:
            return self
        values, vectors = torch.linalg.eigh(self.matrix)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
        return Gaussian(self.n, self.mean, root, factored=True)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|² + tr(A + B - 2 (AB)^½): the squared Fréchet distance of Gaussians."""
    distance = (a.mean - b.mean).square().sum() + a.variance + b.variance - 2 * _trace_root(a, b)
    return float(distance.clamp(min=0))  # rounding leaves equal sets on either side of it


def _trace_root(a: Gaussian, b: Gaussian) -> Tensor:
    """tr (AB)^½, never by a matrix square root.

    The eigenvalues of AB are those of a generalised symmetric problem where B has full rank. With
    A = FᵀF they are those of F B Fᵀ; where also B = GᵀG, their roots are the singular values of
    F Gᵀ. For two small sets that is an n x n matrix: exact, in milliseconds.
    """
    if not (a.factored or b.factored):
        with suppress(LinAlgError):  # B lacks rank
            roots = eigh(a.matrix, b.matrix, type=2, eigvals_only=True, driver="gv")
            return torch.from_numpy(roots).clamp(min=0).sqrt().sum()
    left, right = (a, b) if a.factored else (b.factor(), a)
    if right.factored:
        return torch.linalg.svdvals(left.matrix @ right.matrix.T).sum()
    product = left.matrix @ right.matrix @ left.matrix.T
    return torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: the unbiased squared MMD with the kernel (x·y / d + 1)³ of whole sets."""

    def mean(left: np.ndarray, right: np.ndarray, pairs: int) -> float:
        x, y = torch.as_tensor(left).double(), torch.as_tensor(right).double()
        blocks = (((rows @ y.T) / x.shape[1] + 1) ** 3 for rows in x.split(BLOCK))
        total = sum(float(block.sum()) for block in blocks)
        if left is right:
            total -= float(((x.square().sum(1) / x.shape[1] + 1) ** 3).sum())
        return total / pairs

    n, m = len(a), len(b)
    return mean(a, a, n * (n - 1)) + mean(b, b, m * (m - 1)) - 2 * mean(a, b, n * m)


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, neighbours: int = 3
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
    x, y = (torch.as_tensor(points).double() for points in (samples, reference))
    return _share_inside(x, y, neighbours), _share_inside(y, x, neighbours)


def nearest_distance(points: np.ndarray, centres: np.ndarray) -> float:
    """Mean distance of `points` (n, d) from the nearest of `centres` (m, d)."""
    x, y = (torch.as_tensor(np.array(some)).double() for some in (points, centres))
    nearest = [_squared(rows, y).min(1).values for rows in x.split(BLOCK)]
    return float(torch.cat(nearest).clamp(min=0).sqrt().mean())


def _share_inside(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """Share of `points` (n, d) within a ball around one of `centres` (m, d)."""
    # a centre is its own nearest point, at 0, hence the (k + 1)-th
    radii = torch.cat(
        [_squared(rows, centres).kthvalue(neighbours + 1).values for rows in centres.split(BLOCK)]
    )
    inside = sum(
        int((_squared(rows, centres) <= radii).any(1).sum()) for rows in points.split(BLOCK)
    )
    return inside / len(points)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) squared distances."""
    return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T


def inception_score(log_probabilities: np.ndarray, split: int = 5000) -> float:
    """exp of the mean KL(p(y|x) || p(y)), (N, classes) -> the mean over splits (Salimans et al.).

    Splits are consecutive images, 5,000 as in ADM's evaluator: ten of FID-50K's.
    """
    scores = []
    for part in torch.as_tensor(log_probabilities).double().split(split):
        marginal = part.logsumexp(0) - np.log(len(part))  # log p(y)
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    return sum(scores) / len(scores)
