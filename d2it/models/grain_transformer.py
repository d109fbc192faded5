"""The Dynamic Grain Transformer (section 3.2.2): draws the grain of every region from noise."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from d2it.models.blocks import SharesEmbedder
from d2it.models.dit import DiT


class GrainTransformer(DiT):
    """Diffusion over the one-hot grain map: +1 for a region's grain, -1 else. A token is a region.

    The network does not predict the noise but the logits of the clean map (g of Eq 4), so that the
    cross-entropy of Eq 5 trains it at every t. Paper does not say how a map is sampled; one shot
    from pure noise can only learn each region's frequencies, and loses how neighbours agree. Hence
    the many steps of `diffusion.sample_maps`.

    any_ratio   it is told the ratio, beside t: one network draws the maps of every ratio
    """

    def __init__(
        self, side: int, grains: int, width: int, any_ratio: bool = False, **others: Any
    ) -> None:
        """`others` are a DiT's: depth, heads, classes, …"""
        super().__init__(side, grains, patch=1, width=width, learn_sigma=False, **others)
        self.grains = grains
        self.ratio = SharesEmbedder(width, grains - 1) if any_ratio else None

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, reached: Tensor | None = None
    ) -> Tensor:
        """x (N, k, h, w), t (N,), y (N,) or None -> (N, k, h, w). `reached` (N, k-1), the shares of
        regions of grain 1 or finer, 2 or finer, …, where the network is told the ratio.
        """
        c = self.condition(t, y)
        if self.ratio is not None:
            c = c + self.ratio(reached)
        return self.given(x, c)


def one_hot(map: Tensor, grains: int) -> Tensor:
    """(N, h, w) int64 -> (N, k, h, w): +1 at the grain, -1 elsewhere."""
    return F.one_hot(map, grains).permute(0, 3, 1, 2).float() * 2 - 1


def grain_loss(logits: Tensor, map: Tensor) -> Tensor:
    """L_grain (Eq 5): cross-entropy of each region's grain. logits (N, k, h, w), map (N, h, w)."""
    return F.cross_entropy(logits.float(), map)
