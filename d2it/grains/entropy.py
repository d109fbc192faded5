"""The entropy of each region's grey levels, by which its grain is chosen (section 3.1, Eq 2-3)."""

from functools import cache

import torch
from torch import Tensor

from d2it.errors import UserError

LEVELS = 256  # grey levels of an 8-bit image


# Regions whose histograms (256 float64 each) are held at a time: 4 MiB stay in a CPU's cache.
CHUNK, LARGE_CHUNK = 2**11, 2**14  # on a CPU; on an accelerator, which wants more at a time


def grey_levels(images: Tensor) -> Tensor:
    """Luma of RGB images, rounded to 8 bits once. (N, H, W, 3) uint8 -> (N, H, W) uint8.

    In integers, so that every device and every batch gives the same level.
    """
    red, green, blue = (images[..., i].to(torch.int32) for i in range(3))
    return ((299 * red + 587 * green + 114 * blue + 500) // 1000).to(torch.uint8)


@cache
def kernel_matrix(
    sigma: float,
    bins: int,
    grey_range: tuple[int, int] = (-1, 1),
    device: torch.device | str = "cpu",
) -> Tensor:
    """What a pixel of each grey level adds to each bin (Eq 2). (256, bins) float64.

    Remembered, since a host waits for what it copies to an accelerator.
    Grey levels span [-1, 1], and so do the bins b_j, unless `grey_range` says otherwise. 256 bins
    are the paper's P = S x S at S = 16, kept for every S: with fewer, a constant region's entropy
    would depend on how near its level is to a bin.
    """
    levels = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)
    centres = torch.linspace(*grey_range, bins, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((levels[:, None] - centres) / sigma) ** 2)
    inside = (levels >= grey_range[0]) & (levels <= grey_range[1])
    if not (kernel.sum(1) > 0)[inside].all():
        raise UserError(
            f"sigma={sigma} is so narrow that some grey levels reach none of {bins} bins: "
            "raise sigma or bins."
        )
    return kernel.to(device)


def entropy_map(
    images: Tensor,
    region: int,
    sigma: float = 0.01,
    bins: int = 256,
    grey_range: tuple[int, int] = (-1, 1),
) -> Tensor:
    """Shannon entropy of each region's grey levels in nats (Eq 2-3).

    (N, H, W, 3) uint8 -> (N, H/S, W/S) float32. The kernel density of 8-bit grey is the region's
    histogram times a fixed matrix: exact, without S^2 x bins exponentials. Eq 2 is not normalised
    as printed; we normalise over the bins, so that Eq 3 is an entropy. A region that reaches no
    bin has none: 0.
    """
    kernel = kernel_matrix(sigma, bins, grey_range, images.device)
    height, width = images.shape[1:3]
    h, w = height // region, width // region
    if (h * region, w * region) != (height, width):
        raise UserError(
            f"Images of {width} x {height} px do not divide into regions of {region} px."
        )
    chunk = CHUNK if images.device.type == "cpu" else LARGE_CHUNK
    per_chunk = max(1, chunk // (h * w))
    entropies = [_entropies(some, region, kernel) for some in images.split(per_chunk)]
    return torch.cat(entropies) if entropies else images.new_zeros((0, h, w), dtype=torch.float32)


def _entropies(images: Tensor, region: int, kernel: Tensor) -> Tensor:
    grey = grey_levels(images)
    n, height, width = grey.shape
    h, w = height // region, width // region
    regions = (
        grey.view(n, h, region, w, region).transpose(2, 3).reshape(n * h * w, region**2).long()
    )
    index = torch.arange(len(regions), device=grey.device)[:, None] * LEVELS + regions
    # bincount would wait for an accelerator; whole numbers add up exactly in any order
    histogram = kernel.new_zeros(len(regions) * LEVELS)
    histogram.scatter_add_(0, index.flatten(), kernel.new_ones(()).expand(index.numel()))
    density = histogram.view(-1, LEVELS) @ kernel  # Eq 2
    p = density / density.sum(1, keepdim=True).clamp(min=torch.finfo(density.dtype).tiny)
    return -torch.xlogy(p, p).sum(1).view(n, h, w).float()  # Eq 3
