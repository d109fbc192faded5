"""Inception features: the ones clean-fid computes, and independent of how images are batched."""

import numpy as np
import pytest
import torch

from d2it.models.inception import DIMENSIONS, SPATIAL, Inception, resize_adm
from d2it.sources.fetch import weights_file

BLOCK = 4  # images that go through the network together: of the usual 16, most would be padding


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2it.models.inception.BLOCK", BLOCK)
        yield


@pytest.fixture(scope="module")
def inception() -> Inception:
    return Inception()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(6, 64, 64, 3): blurred noise of varying coarseness."""
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (2 ** (1 + i % 6),) * 2 + (3,)) for i in range(6)]
    grown = [c.repeat(64 // len(c), 0).repeat(64 // len(c), 1) for c in coarse]
    return np.stack(grown).astype("u1")


@pytest.fixture(scope="module")
def features(inception: Inception, images: np.ndarray) -> np.ndarray:
    return inception(images)


def test_equal_clean_fids_own(images: np.ndarray, features: np.ndarray) -> None:
    """clean-fid's wrapper and resizer around the same network."""
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    peer = InceptionV3W.__new__(InceptionV3W)  # its constructor downloads
    torch.nn.Module.__init__(peer)
    peer.layers = torch.jit.load(weights_file("inception")).eval().net.layers
    peer.resize_inside = False
    resize = build_resizer("clean")
    x = torch.from_numpy(np.stack([resize(image) for image in images[:4]])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = peer(x).numpy()
    assert features.shape == (6, DIMENSIONS) and features.dtype == np.float32
    np.testing.assert_allclose(features[:4], expected, atol=1e-4)
    assert expected.std() > 0.1


def test_spatial_features_are_the_first_channels_of_mixed_6(
    inception: Inception, images: np.ndarray
) -> None:
    """Against the layers one by one: of mixed_6 only its first branch, cut, channels last,
    as guided-diffusion's evaluator reads them."""
    found = inception.both(images[:2])
    layers = torch.jit.load(weights_file("inception")).eval().net.layers
    with torch.inference_mode():
        x = (torch.stack([inception.resize(image) for image in images[:2]]) - 128) / 128
        for name, layer in layers.named_children():
            if name == "mixed_6":
                expected = layer.conv(x)[:, :7].permute(0, 2, 3, 1).reshape(2, SPATIAL).numpy()
            x = layer(x)
    np.testing.assert_allclose(found["spatial"], expected, atol=1e-4)
    np.testing.assert_allclose(found["features"], x.reshape(2, DIMENSIONS).numpy(), atol=1e-4)
    assert expected.std() > 0.01


def test_independent_of_batching(
    inception: Inception, images: np.ndarray, features: np.ndarray
) -> None:
    """Aligned parts give the same bytes, whatever else is in their block or after it."""
    parts = [inception.both(images[:BLOCK]), inception.both(images[BLOCK:])]
    assert np.array_equal(np.concatenate([part["features"] for part in parts]), features)
    assert [part["spatial"].shape for part in parts] == [(4, SPATIAL), (2, SPATIAL)]
    others = images.copy()
    others[:2] = 0
    alone = inception.both(others[:3])
    assert np.array_equal(alone["features"][2:], features[2:3])
    assert np.array_equal(alone["spatial"][2:], parts[0]["spatial"][2:3])
    assert inception(images[:0]).shape == (0, DIMENSIONS)


def test_arithmetic_of_gpus_is_settled(
    inception: Inception, images: np.ndarray, monkeypatch
) -> None:
    """cuDNN computes, by fixed algorithms without TF32."""
    seen = []
    lower = inception.lower

    def noting(x: torch.Tensor) -> torch.Tensor:
        cudnn = torch.backends.cudnn
        seen.append((cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32))
        return lower(x)

    monkeypatch.setattr(inception, "lower", noting)
    inception(images[:1])
    assert seen == [(True, True, False, False)]


def test_images_of_any_size(inception: Inception) -> None:
    sizes = [(32, 48), (299, 299), (400, 301)]
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    assert np.isfinite(inception(images)).all()


def test_adm_resizes_as_tensorflow_1_did() -> None:
    """Output pixel i reads the input at i * side / 299, linearly; the last is clamped."""
    image = np.random.default_rng(2).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    resized = resize_adm(image).numpy()
    assert resized.shape == (3, 299, 299)
    for row, column in [(0, 0), (10, 250), (150, 7), (298, 298)]:
        y, x = row * 64 / 299, column * 32 / 299
        top, left = int(y), int(x)
        below, right = min(top + 1, 63), min(left + 1, 31)
        dy, dx = y - top, x - left
        corners = image[[top, top, below, below], [left, right, left, right], :].astype(float)
        weights = np.array([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx])
        np.testing.assert_allclose(resized[:, row, column], weights @ corners, rtol=1e-5)


def test_protocols_differ_only_in_resizing(
    inception: Inception, images: np.ndarray, features: np.ndarray
) -> None:
    other = Inception("adm")
    assert not np.allclose(other(images[:1]), features[:1], atol=1e-3)
    native = np.random.default_rng(3).integers(0, 256, (1, 299, 299, 3), dtype=np.uint8)
    np.testing.assert_allclose(other(native), inception(native), atol=1e-4)
