"""FID's Inception-v3 in layers of torch, with the weights of the published TorchScript file.

The file's own program gives the same numbers to rounding, in more seconds. Here
batch norms are folded into the convolutions, means of 3 x 3 are taken after the 1 x 1 convolution
that follows them, which has fewer channels (both are linear), and channels lie beside each other.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3  # of the batch norms


class Layer(nn.Conv2d):
    """A convolution with its batch norm, the mean of 3 x 3 where there is one, and ReLU."""

    def __init__(self, layer: Any, averages: bool = False) -> None:
        outputs, inputs, *kernel = layer.weight.shape
        super().__init__(inputs, outputs, kernel, layer.stride, layer.padding)
        scale = (layer.var + EPSILON).rsqrt()
        weight = layer.weight * scale[:, None, None, None]
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(layer.beta - layer.mean * scale)
        self.averages = averages

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.averages:  # of what lies within the image, as TensorFlow does
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.relu_(x)


class Branches(nn.ModuleList):
    """The channels of all branches after each other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


def inception(script: Any) -> dict[str, nn.Module]:
    """The frozen layers by their names in the file, to be called in turn."""
    return {
        name: _layer_of(part).eval().requires_grad_(False)
        for name, part in script.net.layers.named_children()
    }


def _layer_of(part: Any) -> nn.Module:
    parts = dict(part.named_children())
    match part.original_name:
        case "Conv2dLayer":
            return Layer(part)
        case "MaxPool2d":
            return nn.MaxPool2d(3, stride=2)
        case "AvgPool2d":  # the last layer
            return nn.AvgPool2d(8)
        case "Sequential":
            if "pool" in parts:
                return Layer(parts["conv"], averages=True)
            return nn.Sequential(*map(_layer_of, parts.values()))
        case "InceptionE":
            return _last_block(parts)
        case _:  # InceptionA to D
            return Branches(map(_layer_of, parts.values()))


def _last_block(parts: dict[str, Any]) -> Branches:
    """Two of its branches fork once more."""

    def fork(name: str) -> Branches:
        return Branches([Layer(parts[f"{name}_mixed_conv"]), Layer(parts[f"{name}_mixed_conv_1"])])

    averages = parts["tower_2_pool"].original_name == "AvgPool2d"  # else it takes the largest
    pooled = Layer(parts["tower_2_conv"], averages)
    return Branches(
        [
            Layer(parts["conv"]),
            nn.Sequential(Layer(parts["tower_conv"]), fork("tower")),
            nn.Sequential(
                Layer(parts["tower_1_conv"]), Layer(parts["tower_1_conv_1"]), fork("tower_1")
            ),
            pooled if averages else nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), pooled),
        ]
    )
