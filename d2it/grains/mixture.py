"""Random ratios: the mixture that one network for every ratio learns from."""

import torch
from torch import Generator


def random_shares(generator: Generator, n: int, thresholds: int) -> list[list[float]]:
    """Random shares of grains 1..k-1 for each of n images.

    For two grains 20 % each of 0, .5 and 1, the rest uniform: the ends and the main ratio stay well
    served. For more, k-1 such draws are sorted to be the shares of "this grain or finer".
    """
    pick = torch.rand((n, thresholds), generator=generator)
    uniform = torch.rand((n, thresholds), generator=generator)
    fixed = torch.tensor([0.0, 0.5, 1.0])[(pick * 5).long().clamp(max=2)]
    reached = torch.where(pick < 0.6, fixed, uniform).sort(dim=1, descending=True).values
    finer = torch.cat([reached[:, 1:], torch.zeros(n, 1)], dim=1)
    return (reached - finer).tolist()
