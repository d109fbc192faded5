"""What `d2it prepare` packs: for each split the images, their labels, and where they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STREAMS = {"train": 0, "test": 1}  # of random numbers: held-out images are other draws


@dataclass(frozen=True)
class Split:
    items: Sequence[Any]  # what `load` takes; small and picklable, for other processes
    labels: np.ndarray  # (N,) int64; zeros without classes


@dataclass(frozen=True)
class Collection:
    splits: dict[str, Split]
    load: Callable[[Any, int], np.ndarray]  # item, side -> (side, side, 3) uint8
    classes: list[str]
    licence: str
    citation: str
    listing: str  # digest of what the items are; the recipe cannot see into a user's folder


def stream(seed: int, split: str, *identity: int) -> np.random.Generator:
    """Random numbers that depend on what they are for, not on who draws them or when."""
    key = np.random.SeedSequence((seed % 2**64, STREAMS[split], *identity))
    return np.random.Generator(np.random.Philox(key))
