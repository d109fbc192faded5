"""PatchGAN: one logit per overlapping patch of the image.

GroupNorm instead of the usual batch norm: how a batch is cut into shards must not matter.
"""

from torch import Tensor, nn

from d2it.errors import UserError

KERNEL = 4
SLOPE = 0.2


class Discriminator(nn.Module):
    """`layers` halvings, then two convolutions: 3 layers see patches of 70 px, 2 of 34 px."""

    def __init__(self, channels: int, layers: int, norm_groups: int) -> None:
        super().__init__()
        if channels % norm_groups:
            raise UserError(
                f"model.dvae.norm_groups is {norm_groups}, which does not divide the "
                f"discriminator's {channels} channels."
            )
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        blocks: list[nn.Module] = [
            nn.Conv2d(3, channels, KERNEL, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
        ]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            blocks += [
                nn.Conv2d(widths[i - 1], widths[i], KERNEL, stride, padding=1, bias=False),
                nn.GroupNorm(norm_groups, widths[i]),
                nn.LeakyReLU(SLOPE),
            ]
        blocks.append(nn.Conv2d(widths[-1], 1, KERNEL, padding=1))
        self.layers = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)  # as PatchGAN is always started

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, 1, h, w) logits, high for real patches."""
        return self.layers(x)
