"""Properties of grains: entropy (Eq 2-3), maps, neighbour copying (3.1) and weights (Eq 11)."""

import math

import numpy as np
import pytest
import torch

from d2it.errors import UserError
from d2it.grains import maps
from d2it.grains.entropy import entropy_map, grey_levels, kernel_matrix

KS = (2, 3)


def naive_entropy(
    grey: np.ndarray, sigma: float, bins: int, span: tuple[int, int] = (-1, 1)
) -> float:
    """Eq 2 and 3 word by word, for one region of 8-bit grey."""
    x = grey.reshape(-1, 1) / 255 * 2 - 1
    density = np.exp(-0.5 * ((x - np.linspace(*span, bins)) / sigma) ** 2).mean(0)
    p = density / density.sum() if density.any() else density
    return float(-sum(q * math.log(q) for q in p if q > 0))


def random_images(seed: int, n: int, side: int) -> torch.Tensor:
    """Flat, noisy and full-range regions side by side."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(0, 256, (n, side // 8, side // 8, 3), generator=generator)
    level = level.repeat_interleave(8, 1).repeat_interleave(8, 2).float()
    spread = torch.rand((n, side // 8, side // 8, 1), generator=generator) ** 4 * 120
    spread = spread.repeat_interleave(8, 1).repeat_interleave(8, 2)
    noise = torch.randn((n, side, side, 3), generator=generator)
    return (level + spread * noise).clamp(0, 255).to(torch.uint8)


def random_code(seed: int, k: int, n: int = 3, side: int = 4) -> tuple[list, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randn((n, 2, side * 2**i, side * 2**i), generator=generator) for i in range(k)]
    ratio = 0.5 if k == 2 else [0.3, 0.3]
    return codes, maps.random_map(generator, n, side, ratio)


@pytest.mark.parametrize(
    ("region", "bins", "sigma", "span"),
    [
        (8, 256, 0.01, (-1, 1)),
        (16, 256, 0.01, (-1, 1)),
        (8, 32, 0.02, (-1, 1)),
        (8, 32, 0.01, (0, 1)),
    ],
)
def test_entropy_is_the_formula(region, bins, sigma, span):
    images = random_images(0, 3, 32)
    found = entropy_map(images, region, sigma, bins, span)
    grey = (images.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).numpy()
    grey = np.floor(grey + 0.5 + 1e-9)  # halves up, as in integers
    assert found.dtype == torch.float32 and found.shape == (3, 32 // region, 32 // region)
    for n, i, j in np.ndindex(*found.shape):
        patch = grey[n, i * region : (i + 1) * region, j * region : (j + 1) * region]
        assert found[n, i, j].item() == pytest.approx(
            naive_entropy(patch, sigma, bins, span), abs=1e-6
        )


def test_entropy_of_flat_regions_does_not_depend_on_their_grey():
    levels = torch.arange(256, dtype=torch.uint8)
    images = levels[:, None, None, None].expand(256, 8, 8, 3).contiguous()
    entropy = entropy_map(images, 8).flatten()
    assert torch.equal(grey_levels(images)[:, 0, 0], levels)
    assert torch.allclose(entropy[16:240], entropy[128], atol=1e-6)
    assert entropy[128].item() == pytest.approx(1.662, abs=1e-3)
    assert entropy[0].item() == pytest.approx(1.122, abs=1e-3)  # half the kernel is cut off


def test_with_bins_over_the_bright_half_no_dark_region_has_entropy():
    noise = torch.randint(0, 60, (2, 16, 16, 1), generator=torch.Generator().manual_seed(0))
    dark = noise.expand(-1, -1, -1, 3).to(torch.uint8)
    bright = dark + 150
    assert entropy_map(dark, 8).min() > 3
    assert not entropy_map(dark, 8, grey_range=(0, 1)).any()
    assert entropy_map(bright, 8, grey_range=(0, 1)).min() > 3
    assert torch.equal(entropy_map(bright, 8), entropy_map(bright, 8, grey_range=(-1, 1)))


def test_entropy_does_not_depend_on_the_batch_or_its_chunks(monkeypatch):
    images = random_images(1, 6, 32)
    whole = entropy_map(images, 8)
    assert torch.equal(whole, torch.cat([entropy_map(image[None], 8) for image in images]))
    monkeypatch.setattr("d2it.grains.entropy.CHUNK", 20)
    assert torch.allclose(whole, entropy_map(images, 8), atol=1e-6)
    assert entropy_map(images[:0], 8).shape == (0, 4, 4)


def test_entropy_flips_with_the_image():
    images = random_images(2, 2, 32)
    flipped = entropy_map(images.flip(2), 8)
    assert torch.equal(flipped, entropy_map(images, 8).flip(2))


def test_entropy_refuses_what_has_no_answer():
    with pytest.raises(UserError, match="do not divide"):
        entropy_map(random_images(0, 1, 24), 16)
    with pytest.raises(UserError, match="raise sigma or bins"):
        kernel_matrix(1e-5, 8)


def test_maps_count_the_cuts_exceeded():
    entropy = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    assert maps.grain_map(entropy, [1.0]).tolist() == [[[0, 0], [1, 1]]]
    assert maps.grain_map(entropy, [0.5, 2.5]).tolist() == [[[0, 1], [1, 2]]]
    assert maps.grain_map(entropy, [math.inf]).sum() == 0
    assert maps.grain_map(entropy, [-math.inf]).sum() == 4
    two = maps.grain_map(entropy.expand(2, 2, 2), [torch.tensor([0.5, 2.5])[:, None, None]])
    assert two.sum((1, 2)).tolist() == [3, 1]


def test_random_maps_reach_their_shares():
    generator = torch.Generator().manual_seed(0)
    map = maps.random_map(generator, 200, 16, 0.3)
    assert maps.fine_share(map) == pytest.approx(0.3, abs=0.01)
    assert maps.neighbour_agreement(map) == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    map = maps.random_map(generator, 200, 16, [0.2, 0.5])
    shares = [(map == grain).double().mean().item() for grain in range(3)]
    assert shares == pytest.approx([0.3, 0.2, 0.5], abs=0.01)
    assert maps.fine_share(map, k=3) == shares[2]
    assert maps.random_map(generator, 2, 4, 1.0).min() == 1
    assert maps.random_map(generator, 2, 4, 0.0).max() == 0
    assert maps.neighbour_agreement(maps.constant_map(2, 4, 1)) == 1


@pytest.mark.parametrize("k", KS)
def test_routing_copies_the_code_of_each_grain(k):
    codes, map = random_code(0, k)
    routed = maps.route(codes, map)
    for n, y, x in np.ndindex(map.shape):
        grain = int(map[n, y, x])
        cells, side = 2**grain, 2 ** (k - 1)
        code = codes[grain][n, :, y * cells : (y + 1) * cells, x * cells : (x + 1) * cells]
        block = routed[n, :, y * side : (y + 1) * side, x * side : (x + 1) * side]
        assert torch.equal(block, maps.to_grid(code, side // cells))
    for grain in range(k):
        constant = maps.constant_map(3, 4, grain)
        upsampled = maps.to_grid(codes[grain], 2 ** (k - 1 - grain))
        assert torch.equal(maps.route(codes, constant), upsampled)


@pytest.mark.parametrize("k", KS)
def test_copies_and_means_stay_within_codes(k):
    codes, map = random_code(1, k)
    x = codes[-1]
    copied, mean = maps.copy_within(x, map, k), maps.mean_within(x, map, k)
    assert torch.equal(maps.mean_within(copied, map, k), copied)  # to the bit
    assert torch.equal(maps.copy_within(copied, map, k), copied)
    assert torch.equal(maps.copy_within(mean, map, k), mean)
    routed = maps.route(codes, map)
    assert torch.equal(maps.copy_within(routed, map, k), routed)
    fine = maps.to_grid(map, 2 ** (k - 1))[:, None].expand_as(x) == k - 1
    assert torch.equal(copied[fine], x[fine]) and torch.equal(mean[fine], x[fine])
    assert mean.sum((2, 3)).allclose(x.sum((2, 3)), atol=1e-4)


@pytest.mark.parametrize("k", KS)
def test_every_code_has_the_weight_of_one_cell(k):
    _, map = random_code(2, k)
    weights = maps.cell_weights(map, k)
    codes_per_region = 4**map  # grain i has 2^i x 2^i codes in a region
    assert weights.shape == (3, 1, 4 * 2 ** (k - 1), 4 * 2 ** (k - 1))
    assert weights.sum((1, 2, 3)).tolist() == codes_per_region.sum((1, 2)).tolist()
    per_region = torch.nn.functional.avg_pool2d(weights, 2 ** (k - 1)) * 4 ** (k - 1)
    assert torch.equal(per_region[:, 0], codes_per_region.float())


@pytest.mark.parametrize("k", KS)
def test_everything_but_noise_flips_with_the_image(k):
    codes, map = random_code(3, k)
    flip = [code.flip(-1) for code in codes]
    assert torch.equal(maps.route(flip, map.flip(-1)), maps.route(codes, map).flip(-1))
    mean = maps.mean_within(codes[-1], map, k)
    assert torch.allclose(maps.mean_within(flip[-1], map.flip(-1), k), mean.flip(-1))
    weights = maps.cell_weights(map, k)
    assert torch.equal(maps.cell_weights(map.flip(-1), k), weights.flip(-1))
