"""PSNR, SSIM and the bicubic yardstick, against scikit-image and by hand."""

import numpy as np
import pytest
import torch
from skimage import data, metrics

from d2it.evaluation import reconstruction
from d2it.evaluation.reconstruction import (
    bicubic_baseline,
    bicubic_side,
    lpips,
    numbers_per_image,
    psnr,
    reconstruct,
    reconstruction_metrics,
    ssim,
)
from d2it.grains.maps import constant_map, random_map
from d2it.models.dvae import Dvae
from d2it.models.lpips import Lpips


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    torch.set_num_threads(1)
    photo = data.astronaut()
    corners = [(0, 100), (40, 180), (200, 300)]
    return np.stack([photo[y : y + 64, x : x + 64] for y, x in corners])


@pytest.fixture(scope="module")
def noisy(images) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 20, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


def test_psnr_equals_scikit_image(images, noisy):
    theirs = [metrics.peak_signal_noise_ratio(a, b) for a, b in zip(images, noisy, strict=True)]
    assert np.allclose(psnr(images, noisy), theirs)


def test_ssim_equals_scikit_image(images, noisy):
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = [
        metrics.structural_similarity(a, b, channel_axis=-1, data_range=255, **settings)
        for a, b in zip(images, noisy, strict=True)
    ]
    assert np.allclose(ssim(images, noisy), theirs, atol=1e-6)
    assert np.allclose(ssim(images, images), 1)


def test_bicubic_has_as_many_numbers(images):
    assert bicubic_side(640) == 15  # 3 x 15 x 15 = 675, 3 x 14 x 14 = 588
    coarse, fine = (psnr(images, bicubic_baseline(images, n)).mean() for n in (256, 1024))
    assert coarse < fine
    assert np.array_equal(bicubic_baseline(images, 3 * 64**2), images)


def test_code_size():
    """A coarse region has 4 numbers, a fine one 16."""
    model = Dvae([8, 4], 64, 4, 8, [1, 1, 1, 1], 1, [], 4)
    assert numbers_per_image(model, constant_map(3, 8, 0)) == 64 * 4
    assert numbers_per_image(model, constant_map(3, 8, 1)) == 64 * 16
    map = random_map(torch.Generator().manual_seed(0), 3, 8, 0.5)
    share = (map == 1).double().mean().item()
    assert numbers_per_image(model, map) == pytest.approx(64 * (4 + 12 * share))


def test_reconstruct_whatever_the_block(images, monkeypatch):
    model = Dvae([8, 4], 64, 4, 8, [1, 1, 1, 1], 1, [], 4).eval()
    maps = random_map(torch.Generator().manual_seed(0), 3, 8, 0.5)
    whole = reconstruct(model, images, maps)
    assert whole.shape == images.shape and whole.dtype == np.uint8
    monkeypatch.setattr(reconstruction, "TOGETHER", 2)
    difference = whole.astype(int) - reconstruct(model, images, maps.numpy())
    assert abs(difference).max() <= 1
    network = Lpips("alex")  # untrained
    found = reconstruction_metrics(images, whole, 640.0, network)
    assert set(found) == {"psnr", "ssim", "lpips", "baseline_psnr"}
    pair = (torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (images, whole))
    with torch.no_grad():
        assert found["lpips"] == pytest.approx(float(network(*pair).mean()), rel=1e-5)
    assert lpips(network, images, images).tolist() == [0.0] * len(images)
    assert found["baseline_psnr"] == pytest.approx(
        psnr(images, bicubic_baseline(images, 640)).mean()
    )
