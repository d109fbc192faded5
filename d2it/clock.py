"""The one clock of training: images seen. Order and randomness follow it, so resuming is exact."""

import functools
import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(*identity: object) -> int:
    """A seed for whatever is named: 63 bits of a digest, so neighbouring names share nothing."""
    text = "/".join(str(part) for part in identity)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, kind: str, step: int) -> "torch.Generator":
    """The CPU generator of one step of one kind of run, or of runs that share their noise."""
    import torch

    return torch.Generator().manual_seed(seed_of(seed, kind, step))


def milestone(at: float, images: int, batch: int) -> int:
    """Images seen after the share `at` of a run of `images`: whole steps, at least one."""
    return max(1, round(at * images / batch)) * batch


def crossed(images: int, batch: int, every: int) -> bool:
    """Whether the step that ended at `images` reached a multiple of `every` (0: always)."""
    return every == 0 or images // every > (images - batch) // every


class Order:
    """The endless order of the training items: a fresh permutation per epoch, by (seed, epoch)."""

    def __init__(self, seed: int, size: int):
        self.size = size
        # a batch may span two epochs, and more where the data set is smaller than the batch
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng(seed_of(seed, "order", epoch)).permutation(size)
        )

    def indices(self, images_seen: int, n: int) -> np.ndarray:
        """The `n` items (n,) that come after `images_seen`."""
        epoch, place = np.divmod(np.arange(images_seen, images_seen + n), self.size)
        indices = np.empty(n, dtype=np.int64)
        for e in np.unique(epoch):
            indices[epoch == e] = self._permutation(int(e))[place[epoch == e]]
        return indices
