"""FID, KID and Inception Score against closed forms and peers; precision and recall too."""

import numpy as np
import pytest
import torch

from d2it.errors import UserError
from d2it.evaluation.metrics import (
    ROWS,
    Gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from d2it.evaluation.neighbours import precision_recall


def points(
    seed: int, n: int, dimensions: int, scale: float = 1.0, shift: float = 0.0
) -> np.ndarray:
    """Correlated features, as a network's are."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / dimensions**0.5
    return (random.normal(size=(n, dimensions)) @ mix * scale + shift).astype(np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(Gaussian.of(a), Gaussian.of(b))


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Gaussian:
    return Gaussian(10**6, mean.double(), covariance.double())


def test_closed_forms() -> None:
    """Commuting: |m|² + Σ (√a - √b)². In two dimensions: tr √M = √(tr M + 2 √det M)."""
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    mean = torch.tensor([1.0, 2.0, 2.0])
    found = frechet_distance(gaussian(mean, a.diag()), gaussian(torch.zeros(3), b.diag()))
    assert found == pytest.approx(9 + 1 + 0 + 4, rel=1e-12)

    left = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    right = torch.tensor([[1.0, -0.3], [-0.3, 3.0]]).double()
    product = left @ right
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = left.trace() + right.trace() - 2 * root
    nothing = torch.zeros(2)
    assert frechet_distance(gaussian(nothing, left), gaussian(nothing, right)) == pytest.approx(
        float(expected), rel=1e-12
    )


@pytest.mark.parametrize(("n", "m"), [(300, 400), (20, 400), (400, 20), (20, 30), (48, 49), (2, 3)])
def test_equals_clean_fid_at_full_rank_and_below(n: int, m: int) -> None:
    from cleanfid.fid import frechet_distance as peer

    a, b = points(1, n, 48), points(2, m, 48, scale=1.3, shift=0.1)
    (mu_a, sigma_a), (mu_b, sigma_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    assert distance(a, b) == pytest.approx(float(peer(mu_a, sigma_a, mu_b, sigma_b)), rel=1e-3)


def test_low_rank_form_equals_the_covariances_form() -> None:
    """Fewer images than dimensions: factors and full covariances give the same number."""
    a, b = points(1, 20, 64), points(2, 300, 64, scale=0.7)
    full = [
        gaussian(*map(torch.from_numpy, (x.mean(0, dtype=float), np.cov(x, rowvar=False))))
        for x in (a, b)
    ]
    assert Gaussian.of(a).factored and not Gaussian.of(b).factored
    assert distance(a, b) == pytest.approx(frechet_distance(*full), rel=1e-6)
    assert distance(b, a) == pytest.approx(distance(a, b), rel=1e-9)


def test_distance_of_a_set_to_itself_is_zero() -> None:
    for n in (20, 300):
        assert distance(points(1, n, 64), points(1, n, 64)) == pytest.approx(0, abs=1e-6)


def test_order_changes_nothing() -> None:
    a, b = points(1, 200, 32), points(2, 150, 32, shift=0.2)
    shuffled = np.random.default_rng(3).permutation(a)
    assert distance(shuffled, b) == pytest.approx(distance(a, b), rel=1e-10)
    assert precision_recall(shuffled, b) == precision_recall(a, b)
    assert kernel_distance(shuffled, b) == pytest.approx(kernel_distance(a, b), rel=1e-8)  # fp32


def test_moments_of_more_rows_than_are_held_at_once() -> None:
    many = points(1, 2 * ROWS + 7, 32, shift=5)
    found = Gaussian.of(many)
    np.testing.assert_allclose(found.mean, many.mean(0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(found.matrix, np.cov(many, rowvar=False), rtol=1e-9, atol=1e-9)


def test_equals_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    a, b = points(1, 120, 24), points(2, 120, 24, scale=0.9, shift=0.05)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    quiet = {"verbose": False, "save_cpu_ram": False}
    statistics = (fid_features_to_statistics(z) for z in (x, y))
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert distance(a, b) == pytest.approx(fid, rel=1e-4)
    kid = kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=120, **quiet
    )  # the whole sets
    assert kernel_distance(a, b) == pytest.approx(kid[KEY_METRIC_KID_MEAN], rel=1e-4)
    prc = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=50, **quiet)
    assert precision_recall(a, b) == pytest.approx(
        (prc[KEY_METRIC_PRECISION], prc[KEY_METRIC_RECALL])
    )


def test_kernel_distance_in_full_precision() -> None:
    """Products are rounded to fp32, which features far from zero would show."""
    a, b = points(1, 700, 24, shift=30), points(2, 600, 24, scale=0.9, shift=30.05)
    x, y = a.astype(float), b.astype(float)
    kernels = [(left @ right.T / 24 + 1) ** 3 for left, right in ((x, x), (y, y), (x, y))]
    own = sum((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernels[:2])
    assert kernel_distance(a, b) == pytest.approx(own - 2 * kernels[2].mean(), rel=1e-5)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = points(1, 2 * ROWS + 7, 32), points(2, 1500, 32, shift=0.1)

    def found(threads: int) -> list[object]:
        monkeypatch.setattr("d2it.machine.rows.cpus", lambda: threads)
        torch.set_num_threads(threads)
        moments = Gaussian.of(a)
        return [
            *(each.numpy().tobytes() for each in (moments.mean, moments.matrix)),
            kernel_distance(a[:1500], b),
            precision_recall(a[:1500], b),
        ]

    assert found(1) == found(3)
    torch.set_num_threads(1)


def test_inception_score_equals_torch_fidelity() -> None:
    """Of the same logits: one split, and ten of equal length."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    logits = torch.from_numpy(points(1, 200, 24, scale=3))
    probabilities = logits.double().log_softmax(1).numpy()
    for splits in (1, 10):
        expected = isc_features_to_metric(logits, splits, shuffle=False)[KEY_METRIC_ISC_MEAN]
        assert inception_score(probabilities, 200 // splits) == pytest.approx(expected, rel=1e-9)


def test_inception_score_where_it_is_known() -> None:
    """1 where all images look alike; the number of classes where each is surely another's."""
    alike = np.log(np.full((50, 4), 0.25))
    sure = np.log(np.clip(np.eye(4), 1e-300, None)).repeat(50, axis=0)
    assert inception_score(alike) == pytest.approx(1)
    assert inception_score(sure) == pytest.approx(4)
    shuffled = np.random.default_rng(0).permutation(sure)
    assert inception_score(shuffled) == pytest.approx(4)  # within one split, order is nothing
    assert inception_score(sure, split=50) == pytest.approx(1)


def test_too_few_images_is_one_sentence() -> None:
    with pytest.raises(UserError, match="at least two images"):
        Gaussian.of(points(1, 1, 8))
    with pytest.raises(UserError, match="more than 3 images, but there are 3"):
        precision_recall(points(1, 3, 8), points(2, 20, 8))
