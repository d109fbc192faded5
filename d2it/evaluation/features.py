"""Inception-v3 pool features (2048 numbers an image): what FID, precision and recall compare.

An image's features never depend on what else is computed: images go through the network in blocks
of 16 that begin at multiples of 16, in fp32 with TF32 off; a short last block is filled up.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2it.data.fetch import weights_file

BLOCK = 16
DIMENSIONS = 2048
SIDE = 299  # of the network's input

Features = np.ndarray  # (N, 2048) float32
Extractor = Callable[[np.ndarray], Features]  # (N, H, W, 3) uint8 -> features


class Inception:
    """The network of the `clean` or the `adm` protocol: they differ in how images reach 299 px."""

    def __init__(self, protocol: str = "clean", device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        network: Any = torch.jit.load(weights_file("inception"), map_location=self.device)
        # Milliseconds an image on one thread: plain 146, channels_last weights 122, frozen 143,
        # frozen with channels_last input 90 to 109 (optimize_for_inference adds nothing), all
        # within 7e-6 of plain.
        self.network = torch.jit.freeze(network.eval().net.layers)
        self.resize = {"clean": resize_clean, "adm": resize_adm}[protocol]

    def __call__(self, images: np.ndarray) -> Features:
        """(N, H, W, 3) uint8, the first at a multiple of 16 in its series -> (N, 2048) float32."""
        blocks = [self._block(images[i : i + BLOCK]) for i in range(0, len(images), BLOCK)]
        return np.concatenate([np.empty((0, DIMENSIONS), np.float32), *blocks])

    @torch.inference_mode()
    def _block(self, images: np.ndarray) -> Features:
        x = self.resize(images)  # (n, 3, 299, 299) in [0, 255]
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, BLOCK - len(images)))
        x = ((x - 128) / 128).to(self.device, memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(allow_tf32=False, benchmark=False, deterministic=True):
            features = self.network(x)  # (16, 2048, 1, 1)
        return features.reshape(BLOCK, DIMENSIONS)[: len(images)].cpu().numpy()


def resize_clean(images: np.ndarray) -> Tensor:
    """Pillow's antialiased bicubic in float32, as clean-fid does it (and by its own code)."""
    from cleanfid.resize import build_resizer

    resize = build_resizer("clean")
    return torch.from_numpy(np.stack([resize(image) for image in images])).permute(0, 3, 1, 2)


def resize_adm(images: np.ndarray) -> Tensor:
    """The bilinear resize inside TensorFlow 1's Inception graph, which ADM's evaluator uses.

    It aligns neither corners nor pixel centres: output pixel i reads the input at i * side / 299.
    """
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    rows, columns = (_legacy_bilinear(side) for side in x.shape[2:])
    return torch.einsum("ih,nchw,jw->ncij", rows, x, columns)


def _legacy_bilinear(side: int) -> Tensor:
    """(299, side) interpolation weights."""
    position = torch.arange(SIDE, dtype=torch.float64) * side / SIDE
    left = position.floor().long()
    share = (position - left)[:, None]
    one_hot = torch.eye(side, dtype=torch.float64)
    return ((1 - share) * one_hot[left] + share * one_hot[(left + 1).clamp(max=side - 1)]).float()


def blocks_of(items: int, block: int = BLOCK) -> Iterator[range]:
    """0 .. items-1 in aligned blocks."""
    for start in range(0, items, block):
        yield range(start, min(start + block, items))


def extract(extractor: Extractor, blocks: Iterable[np.ndarray]) -> Features:
    """Features of images that arrive in blocks, each but the last a multiple of 16 long."""
    return np.concatenate([np.empty((0, DIMENSIONS), np.float32), *map(extractor, blocks)])
