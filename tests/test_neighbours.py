"""Precision, recall and nearest distances against brute force, where fp32 would decide wrongly."""

import numpy as np
import pytest
import torch

from d2it.evaluation import neighbours
from d2it.evaluation.neighbours import (
    clouds,
    inside,
    kth_distances,
    nearest_distance,
    precision_recall,
)
from d2it.machine.rows import TOGETHER
from tests.test_metrics import points


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x.astype(float)[:, None] - y.astype(float)) ** 2).sum(2)


def test_nearest_distance_is_that_of_the_nearest():
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(40, 8)), rng.normal(size=(3000, 8))
    brute = [np.sqrt(((centres - p) ** 2).sum(1)).min() for p in points]
    assert nearest_distance(points, centres) == pytest.approx(np.mean(brute))
    assert nearest_distance(centres[:9], centres) == pytest.approx(0, abs=1e-6)  # copies


def test_precision_and_recall_by_brute_force() -> None:
    samples, reference = points(1, 60, 8, scale=0.8), points(2, 80, 8)

    def inside(some: np.ndarray, centres: np.ndarray, k: int) -> float:
        count = 0
        for point in some:
            for i, centre in enumerate(centres):
                others = np.delete(centres, i, axis=0)
                radius = np.sort(np.linalg.norm(others.astype(float) - centre, axis=1))[k - 1]
                if np.linalg.norm(point.astype(float) - centre) <= radius:
                    count += 1
                    break
        return count / len(some)

    for k in (1, 3):
        expected = inside(samples, reference, k), inside(reference, samples, k)
        assert precision_recall(samples, reference, k) == expected
        assert 0 < expected[0] < 1 or k == 3


def test_precision_and_recall_where_they_are_known() -> None:
    reference = points(1, 50, 8)
    assert precision_recall(reference, reference) == (1.0, 1.0)
    assert precision_recall(reference + 100, reference) == (0.0, 0.0)
    assert (
        precision_recall(reference[:1].repeat(10, 0), reference)[0] == 1.0
    )  # one mode: precise, no recall
    assert precision_recall(reference[:1].repeat(10, 0), reference)[1] == 1 / 50


def almost_ties(seed: int, n: int) -> np.ndarray:
    """Points of a coarse lattice, a millionth beside it, far from zero: many equal distances."""
    random = np.random.default_rng(seed)
    lattice = random.integers(0, 3, (n, 6)).astype(float)
    return (lattice + 1e-6 * random.normal(size=lattice.shape) + 8).astype(np.float32)


@pytest.fixture
def tied() -> tuple[np.ndarray, np.ndarray]:
    return almost_ties(1, 2 * TOGETHER + 9), almost_ties(2, TOGETHER + 30)


def decided(x: np.ndarray, y: np.ndarray) -> list[torch.Tensor]:
    a, b = clouds("cpu", x, y)
    radii = [kth_distances(cloud, cloud, 4) for cloud in (a, b)]
    return [*radii, *inside(a, b, *radii)]


def test_almost_equal_distances_are_told_apart(tied) -> None:
    x, y = tied
    radii_x, radii_y = (np.sort(squared(z, z), 1)[:, 3] for z in (x, y))
    across = squared(x, y)
    expected = (across <= radii_y).any(1), (across <= radii_x[:, None]).any(0)
    found = decided(x, y)
    np.testing.assert_allclose(found[0], radii_x, rtol=1e-12, atol=0)
    np.testing.assert_allclose(found[1], radii_y, rtol=1e-12, atol=0)
    assert [share.tolist() for share in found[2:]] == [share.tolist() for share in expected]
    assert 0 < found[2].double().mean() < 1


def test_fp32_alone_would_decide_otherwise(tied, monkeypatch) -> None:
    expected = decided(*tied)
    monkeypatch.setattr(neighbours, "ROUNDING", 0.0)
    assert [f.tolist() for f in decided(*tied)] != [e.tolist() for e in expected]


def test_copies_are_at_no_distance() -> None:
    """Where a model draws few different images, balls shrink to points; copies lie in them."""
    few = points(1, 20, 8)[np.arange(80) % 20]
    assert precision_recall(few, few) == (1.0, 1.0)
    a, b = clouds("cpu", few, few)
    assert not kth_distances(a, b, 4).any()
