"""Grains: how finely each region of an image is coded (section 3.1), for any number k >= 2.

Grain 0 is coarse, grain k-1 fine. A region is a square of side S (the coarsest factor). On the
finest grid it has 2^(k-1) cells a side, and one code of grain i covers 2^(k-1-i) x 2^(k-1-i) of
them. A grain map holds the grain of each region, (N, h, w) int64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from d2it.config.ratios import at_least


def grain_map(entropy: Tensor, cuts: Sequence[float | Tensor]) -> Tensor:
    """The number of cuts that a region's entropy exceeds. (N, h, w) -> (N, h, w) int64.

    cuts: k-1 rising entropies, each a number or one per image, (N, 1, 1).
    """
    return sum(
        ((entropy > cut).long() for cut in cuts), torch.zeros_like(entropy, dtype=torch.long)
    )


def per_image(cuts: Tensor) -> list[Tensor]:
    """Cuts (n, k-1) of n images, as `grain_map` takes them."""
    return [cut[:, None, None] for cut in cuts.unbind(1)]


def constant_map(n: int, side: int, grain: int, device: torch.device | str = "cpu") -> Tensor:
    """Every region of the same grain: an ordinary VAE of one factor."""
    return torch.full((n, side, side), grain, dtype=torch.long, device=device)


def random_map(
    generator: torch.Generator, n: int, side: int, ratio: float | Sequence[float]
) -> Tensor:
    """Independent regions with the same shares (the "Random" row of Table 5)."""
    uniform = torch.rand(
        (n, side, side), generator=generator, device=generator.device, dtype=torch.float64
    )
    return sum(
        ((uniform < share).long() for share in at_least(ratio)), torch.zeros_like(uniform).long()
    )


def to_grid(values: Tensor, factor: int) -> Tensor:
    """Each value copied over factor x factor cells. (..., h, w) -> (..., h factor, w factor)."""
    return values.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def mean_per_grain(values: Tensor, map: Tensor, grains: int) -> list[Tensor]:
    """Mean of values (N, H, W) over the cells of each grain; 0 where there are none."""
    cells = to_grid(map, values.shape[-1] // map.shape[-1])
    return [
        (values * (cells == grain)).sum() / (cells == grain).sum().clamp(min=1)
        for grain in range(grains)
    ]


def route(codes: Sequence[Tensor], map: Tensor) -> Tensor:
    """Neighbour copying (section 3.1): every finest cell takes the code of its region's grain.

    codes: k tensors (N, C, H_i, W_i), coarse to fine, each twice as large as the one before.
    map: (N, h, w). Returns (N, C, H_f, W_f).
    """
    routed = codes[-1]
    k = len(codes)
    grid = to_grid(map, 2 ** (k - 1))[:, None]  # (N, 1, H_f, W_f)
    for grain, code in enumerate(codes[:-1]):
        routed = torch.where(grid == grain, to_grid(code, 2 ** (k - 1 - grain)), routed)
    return routed


def copy_within(x: Tensor, map: Tensor, k: int) -> Tensor:
    """A code's cells all take its top-left cell's value: one noise per code (epsilon_i of Eq 11).

    x: (N, C, H_f, W_f), and so is what returns.
    """
    return route([x[..., :: 2**level, :: 2**level] for level in reversed(range(k))], map)


def mean_within(x: Tensor, map: Tensor, k: int) -> Tensor:
    """A code's cells all take their mean, so that they stay equal through sampling.

    x: (N, C, H_f, W_f), and so is what returns. Pairs are added to pairs: the mean of equal cells
    is then their value to the bit.
    """
    pyramid = [x]
    for _ in range(k - 1):
        rows = pyramid[0][..., ::2, :] + pyramid[0][..., 1::2, :]
        pyramid.insert(0, (rows[..., ::2] + rows[..., 1::2]) / 4)
    return route(pyramid, map)


def cell_weights(map: Tensor, k: int) -> Tensor:
    """alpha_i of Eq 11: 1 over the cells of a code, so that codes count alike.

    (N, h, w) -> (N, 1, H_f, W_f) float32.
    """
    alpha = torch.full(map.shape, 0.25 ** (k - 1), device=map.device)
    for grain in range(1, k):
        alpha = torch.where(map == grain, 0.25 ** (k - 1 - grain), alpha)
    return to_grid(alpha, 2 ** (k - 1))[:, None]


def fine_share(map: Tensor, k: int = 2) -> float:
    """Share of regions of the finest grain."""
    return reached_shares(map, k)["fine_share"].item()


def reached_shares(map: Tensor, k: int) -> dict[str, Tensor]:
    """`fine_share`, and `share_<i>` of every grain between the coarsest and the finest: float64
    scalars on the map's device, so that training logs them without waiting for it.
    """
    names = {"fine_share": k - 1} | {f"share_{grain}": grain for grain in range(1, k - 1)}
    return {name: (map == grain).double().mean() for name, grain in names.items()}


def neighbour_agreement(map: Tensor) -> float:
    """Share of adjacent pairs of regions, across and down, that have the same grain."""
    across = (map[..., :, 1:] == map[..., :, :-1]).flatten()
    down = (map[..., 1:, :] == map[..., :-1, :]).flatten()
    return torch.cat([across, down]).double().mean().item()
