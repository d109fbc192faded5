"""Inception-v3 pool features (2048 numbers an image): what FID, precision and recall compare.

An image's features never depend on what else is computed: images go through the network in blocks
of 16 that begin at multiples of 16, in fp32 with TF32 off; a short last block is filled up.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2it.data.fetch import weights_file
from d2it.data.sources import find_source

BLOCK = 16
DIMENSIONS = 2048
SIDE = 299  # of the network's input


class Inception:
    """The network of the `clean` or the `adm` protocol: they differ in how images reach 299 px."""

    def __init__(self, protocol: str = "clean", device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.sha256 = find_source("inception").sha256
        network: Any = torch.jit.load(weights_file("inception"), map_location=self.device)
        # Milliseconds an image on one thread: plain 146, channels_last weights 122, frozen 143,
        # frozen with channels_last input 90 to 109 (optimize_for_inference adds nothing), all
        # within 7e-6 of plain.
        self.network = torch.jit.freeze(network.eval().net.layers)
        self.resize = {"clean": resize_clean, "adm": resize_adm}[protocol]

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """N images (H, W, 3) uint8, the first at a multiple of 16 in its series -> (N, 2048)."""
        blocks = [self._block(images[i : i + BLOCK]) for i in range(0, len(images), BLOCK)]
        return np.concatenate([np.empty((0, DIMENSIONS), np.float32), *blocks])

    @torch.inference_mode()
    def _block(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        x = torch.stack([self.resize(image) for image in images])  # (n, 3, 299, 299) in [0, 255]
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, BLOCK - len(images)))
        x = ((x - 128) / 128).to(self.device, memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(allow_tf32=False, benchmark=False, deterministic=True):
            features = self.network(x)  # (16, 2048, 1, 1)
        return features.reshape(BLOCK, DIMENSIONS)[: len(images)].cpu().numpy()


def resize_clean(image: np.ndarray) -> Tensor:
    """Pillow's antialiased bicubic in float32, by clean-fid. (H, W, 3) uint8 -> (3, 299, 299)."""
    from cleanfid.resize import build_resizer

    return torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)


def resize_adm(image: np.ndarray) -> Tensor:
    """The bilinear resize inside TensorFlow 1's Inception graph, which ADM's evaluator uses.

    It aligns neither corners nor pixel centres: output pixel i reads the input at i * side / 299.
    """
    x = torch.from_numpy(image).permute(2, 0, 1).float()
    rows, columns = (_legacy_bilinear(side) for side in x.shape[1:])
    return rows @ x @ columns.T


@cache
def _legacy_bilinear(side: int) -> Tensor:
    """(299, side) interpolation weights."""
    position = torch.arange(SIDE, dtype=torch.float64) * side / SIDE
    left = position.floor().long()
    share = (position - left)[:, None]
    one_hot = torch.eye(side, dtype=torch.float64)
    return ((1 - share) * one_hot[left] + share * one_hot[(left + 1).clamp(max=side - 1)]).float()
