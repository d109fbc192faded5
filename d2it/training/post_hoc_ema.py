"""Averages of the weights whose width is chosen afterwards: post-hoc EMA (Karras et al., "EDM2",
arXiv 2312.02696, section 3).

A power-function average weights the network after t images by t^g. Its width is a share of the
training so far, not a length. Two such averages are kept, with snapshots of them on the way; any
other is nearly a sum of snapshots with the right coefficients.
"""

import torch
from torch import nn

from d2it.runs import state
from d2it.runs.snapshots import WIDTHS, exponent


class PowerAverages:
    """The two averages of a network's parameters, in fp32."""

    def __init__(self, module: nn.Module):
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = [p.detach() for p in module.parameters()]
        self.averages = {w: [p.float().clone() for p in self.parameters] for w in WIDTHS}
        self.exponents = {w: exponent(w) for w in WIDTHS}

    @torch.no_grad()
    def update(self, images: int, batch: int) -> None:
        """Take in the weights after `images` (see Ema.update)."""
        for width, averages in self.averages.items():
            new_share = 1 - (1 - batch / images) ** (self.exponents[width] + 1)  # Equation 127
            torch._foreach_lerp_(averages, self.parameters, new_share)

    def state_dict(self) -> state.Tensors:
        return {
            f"{width}/{name}": average
            for width, averages in self.averages.items()
            for name, average in zip(self.names, averages, strict=True)
        }

    @torch.no_grad()
    def load_state_dict(self, tensors: state.Tensors) -> None:
        for key, average in self.state_dict().items():
            average.copy_(tensors[key])
