"""Inception-v3 features of images, and the class probabilities that follow from them.

Pool features (2048 numbers an image) are what FID, KID, precision and recall compare, spatial ones
(2023) what sFID does. An image's features never depend on what else is computed: images go through
the network in blocks of 16 that begin at multiples of 16, in fp32 with TF32 off; a short last block
is filled up.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2it.machine.device import Device
from d2it.machine.pools import cpus, in_order, threads
from d2it.machine.rows import by_rows, products
from d2it.models.inception_layers import inception
from d2it.sources.fetch import weights_file
from d2it.sources.table import find_source

BLOCK = 16
ROWS = 1024  # features whose classes are found together
DIMENSIONS = 2048  # of pool features
SPATIAL = 7 * 17 * 17  # the first seven channels of the layer `mixed_6`, as ADM's evaluator
SIDE = 299  # of the network's input


class Inception:
    """The network of the `clean` or the `adm` protocol: they differ in how images reach 299 px."""

    def __init__(self, protocol: str = "clean", device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.sha256 = find_source("inception").sha256
        script = torch.jit.load(weights_file("inception"), map_location="cpu")
        layers = inception(script)
        cut = list(layers).index("mixed_6") + 1
        self.lower, self.upper = (
            nn.Sequential(*part).to(self.device)
            for part in (list(layers.values())[:cut], list(layers.values())[cut:])
        )
        self.resize = {"clean": resize_clean, "adm": resize_adm}[protocol]

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """N images (H, W, 3) uint8, the first at a multiple of 16 in its series -> (N, 2048)."""
        return self.both(images)["features"]

    def both(self, images: Sequence[np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """The same as `features` (N, 2048), and `spatial` (N, 2023), both float32."""
        # Resizing takes a GPU's time several times over: all CPUs do it meanwhile.
        count = 1 if self.device.type == "cpu" else cpus()
        starts = range(0, len(images), BLOCK)
        with threads(count) as pool, repeatable():
            prepared = in_order(pool, count, lambda i: self._resized(images[i : i + BLOCK]), starts)
            blocks = [self._block(x) for x in prepared]
        if not blocks:
            return {
                "features": np.empty((0, DIMENSIONS), "f4"),
                "spatial": np.empty((0, SPATIAL), "f4"),
            }
        found = (torch.cat(each)[: len(images)].cpu().numpy() for each in zip(*blocks, strict=True))
        return dict(zip(("features", "spatial"), found, strict=True))

    def _resized(self, images: Sequence[np.ndarray] | np.ndarray) -> Tensor:
        """What the network takes, (16, 3, 299, 299), about [-1, 1]."""
        x = torch.stack([self.resize(image) for image in images])  # in [0, 255]
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, BLOCK - len(images)))
        x = ((x - 128) / 128).contiguous(memory_format=torch.channels_last)
        return x if self.device.type == "cpu" else x.pin_memory()

    @torch.inference_mode()
    def _block(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(16, 2048) and (16, 2023), on the device."""
        middle = self.lower(x.to(self.device, non_blocking=True))  # (16, 768, 17, 17)
        pool = self.upper(middle)  # (16, 2048, 1, 1)
        spatial = middle[:, :7].permute(0, 2, 3, 1)  # TensorFlow's order, as reference batches are
        return pool.flatten(1), spatial.flatten(1)


@contextmanager
def repeatable() -> Iterator[None]:
    """The same features on every GPU of one model: cuDNN takes algorithms by the shapes alone, not
    by their time, and no TF32.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


class Head:
    """The classifier on top of the pool features: the Inception Score needs its probabilities.

    It is the layer `output` of the file `inception_head`, without its bias: so do the score's
    authors, ADM's evaluator, and that file's own argument `no_output_bias`.
    """

    SOURCE = "inception_head"

    def __init__(self, device: Device = "cpu") -> None:
        network: Any = torch.jit.load(weights_file(self.SOURCE), map_location="cpu")
        self.weight = network.output.weight.detach().double().to(device)  # (1008, 2048)

    @classmethod
    def sha256(cls) -> str | None:
        """Of the file; None where it was not fetched."""
        source = find_source(cls.SOURCE)
        return source.sha256 if source.file.exists() else None

    def __call__(self, features: np.ndarray) -> Tensor:
        """Log-probabilities of the classes, (N, 2048) -> (N, 1008) float64."""

        def of(rows: slice) -> Tensor:
            some = torch.as_tensor(features[rows]).to(self.weight.device).double()
            return products(some, self.weight).log_softmax(1)

        return torch.cat(list(by_rows(of, len(features), self.weight.device, ROWS)))


def resize_clean(image: np.ndarray) -> Tensor:
    """Pillow's antialiased bicubic in float32, by clean-fid. (H, W, 3) uint8 -> (3, 299, 299)."""
    from cleanfid.resize import build_resizer

    return torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)


def resize_adm(image: np.ndarray) -> Tensor:
    """The bilinear resize inside TensorFlow 1's Inception graph, which ADM's evaluator uses.

    It aligns neither corners nor pixel centres: output pixel i reads the input at i * side / 299.
    """
    x = torch.tensor(image).permute(2, 0, 1).float()
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
