"""The average of the weights, as a half-life in images seen: the same at any batch size."""

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a network's parameters, in fp32. Half-life 0: no averaging."""

    def __init__(self, module: nn.Module, half_life: float, batch: int):
        # An average over h images forgets half of its past in h: decay = 0.5^(batch/h) a step.
        self.new_share = 1 - 0.5 ** (batch / half_life) if half_life > 0 else 1.0
        self.module = module
        self.parameters = [p.detach() for p in module.parameters()]
        follows = half_life <= 0
        self.averages = self.parameters if follows else [p.float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights.

        Also after a step that was not finite: from there on weights stand still and nothing is
        saved. One number for all parameters is a few kernels on a GPU; a masked one is a launch
        for each.
        """
        if self.averages is not self.parameters:
            torch._foreach_lerp_(self.averages, self.parameters, self.new_share)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's state dict with the averaged parameters in place of the present ones."""
        names = [name for name, _ in self.module.named_parameters()]
        return self.module.state_dict() | dict(zip(names, self.averages, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for (name, _), average in zip(self.module.named_parameters(), self.averages, strict=True):
            average.copy_(state[name])
