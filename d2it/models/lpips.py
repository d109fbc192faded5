"""LPIPS: the perceptual distance of two images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2it.models.lpips_layers import BACKBONES


class Lpips(nn.Module):
    """LPIPS 0.1 (Zhang et al. 2018): weighted distance of unit-length deep features. Frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = BACKBONES[backbone]
        for i, (inputs, outputs, kernel, stride, padding) in enumerate(self.backbone.convolutions):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, kernel, stride, padding))
        for i, layer in enumerate(self.backbone.read):
            width = self.backbone.convolutions[layer][1]
            self.add_module(f"lin{i}", nn.Conv2d(width, 1, 1, bias=False))
        # ImageNet's mean and standard deviation, for inputs in [-1, 1]
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        self.register_buffer("shift", shift[:, None, None], persistent=False)
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        # 0.7 of a CPU's time: no weight is arranged anew in each call
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, backbone: str) -> "Lpips":
        """With the published weights, fetched beforehand by `d2it fetch`."""
        from safetensors.torch import load_file

        from d2it.sources.fetch import weights_file

        model = cls(backbone)
        model.load_state_dict(load_file(weights_file(f"lpips_{backbone}")))
        return model

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-length features of each layer that is read, (N, C_l, h_l, w_l)."""
        x = (x - self.shift) / self.scale
        found = []
        for i in range(len(self.backbone.convolutions)):
            if i in self.backbone.pooled:
                x = F.max_pool2d(x, *self.backbone.pooled[i])
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            if i in self.backbone.read:
                # vector_norm has a zero gradient at zero, where sqrt(sum of squares) has none
                found.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of pairs of images in [-1, 1], (N, 3, H, W) -> (N,). Only x has gradients."""
        with torch.no_grad():
            targets = self.features(y)
        distance = torch.zeros(len(x), device=x.device)
        for i, (a, b) in enumerate(zip(self.features(x), targets, strict=True)):
            weighted = self.get_submodule(f"lin{i}")((a - b) ** 2)  # (N, 1, h_l, w_l)
            distance = distance + weighted.mean((1, 2, 3))
        return distance
