"""Results that are computed in units: ranges of images, a file each, put together once.

Units end where blocks do, so they are the same arrays in any process of one kind of device; another
kind rounds otherwise, so each file names its own, and the seconds that it took. A unit that is
there is not computed again, whoever was killed and however many shares there are (d2it/shares.py).
"""

import glob
import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from d2it.files import atomic_path, canonical_digest, file_digest, remove_folder, save_by_umask
from d2it.machine.device import Device, device_name
from d2it.shares import Share, report

Arrays = dict[str, np.ndarray]
Advance = Callable[[int], object]  # to be told of images as they are done


@dataclass(frozen=True)
class Unit:
    """Images `span` of a series: a split, or a seed."""

    series: str
    span: range


def divide(series: str, images: range, most: int, block: int = 1) -> list[Unit]:
    """Units of at most `most` images, or of one block; borders between them are those of blocks."""
    length = block * max(1, most // block)
    borders = range(images.start - images.start % length, images.stop, length)
    spans = [range(max(at, images.start), min(at + length, images.stop)) for at in borders]
    return [Unit(series, span) for span in spans]


class Units:
    """The units of what `recipe` makes of `result`, in a folder beside it until it is there."""

    def __init__(
        self,
        result: Path,
        recipe: Any,
        units: Sequence[Unit],
        files: Callable[[Unit], list[Path]] = lambda _: [],
    ) -> None:
        """`files`: what a unit consists of beside its own file."""
        self.all, self.files = units, files
        self.folder = result.with_name(f".{result.name}.{canonical_digest(recipe)[:8]}.parts")
        self._any_recipe = f".{glob.escape(result.name)}.{8 * '?'}.parts"

    def path(self, unit: Unit) -> Path:
        span = unit.span
        return self.folder / f"{unit.series}-{span.start:08d}-{span.stop:08d}.safetensors"

    def load(self, unit: Unit) -> Arrays:
        return load_file(self.path(unit))

    def missing(self) -> list[Unit]:
        return [unit for unit in self.all if not self.path(unit).exists()]

    def is_sound(self, unit: Unit) -> bool:
        """Whether its file is there, as it was written; a damaged one is dropped."""
        path = self.path(unit)
        if not path.exists():
            return False
        try:
            with safe_open(path, "numpy") as file:
                said = file.metadata() or {}
            is_old = said.keys() == {"device"}  # from before there was a digest
            if is_old or said["sha256"] == self._digest(self.load(unit), said, unit):
                return True
        except (SafetensorError, OSError, KeyError):
            pass
        warnings.warn(f"{path} is damaged: it is computed again.", stacklevel=3)
        path.unlink()
        return False

    def _digest(self, arrays: Arrays, said: dict[str, str], unit: Unit) -> str:
        """Of all that a unit's file says, and of the other files that are its own."""
        seconds = [said["seconds"]] if "seconds" in said else []  # there were none before
        shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
        bytes = [hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in sorted(arrays)]
        files = [file_digest(path) for path in self.files(unit)]
        return canonical_digest([said["device"], shapes, bytes, files, *seconds])

    def compute(
        self,
        one: Callable[[Unit, Advance], Arrays],
        device: Device,
        what: str,
        share: Share | None = None,
        before: int = 0,
    ) -> None:
        """Compute the missing ones of a share, where units of other results precede, `before`.

        What `one` writes into the folder is finished when the file of its unit is there. A unit
        that is not as it was written is computed again.
        """
        own = self.all if share is None else share.take(self.all, before)
        total, done = sum(len(unit.span) for unit in own), 0
        with tqdm(total=total, unit="image", desc=what, disable=None) as bar:
            for unit in own:
                if not self.is_sound(unit):
                    began = time.monotonic()
                    arrays, name = one(unit, bar.update), device_name(device)
                    said = {"device": name, "seconds": f"{time.monotonic() - began:.6f}"}
                    sealed = said | {"sha256": self._digest(arrays, said, unit)}
                    with atomic_path(self.path(unit)) as temporary:
                        save_by_umask(save_file, arrays, temporary, sealed)
                done += len(unit.span)
                bar.update(done - bar.n)
                report(len(unit.span))

    def devices(self, what: str) -> list[str]:
        """What all were computed on; a warning where that is several kinds."""
        found = {told.get("device", "a device that is not recorded") for told in self._told()}
        if len(found) > 1:
            warnings.warn(
                f"{what}: computed on several kinds of device ({'; '.join(sorted(found))}), which "
                "round differently; for identical results set `constraint` in the launcher to one "
                "GPU model.",
                stacklevel=2,
            )
        return sorted(found)

    def seconds(self) -> float:
        """What all took together, a process each; 0: one of them does not say."""
        try:
            return sum(float(told["seconds"]) for told in self._told())
        except (KeyError, ValueError):  # from before it was recorded
            return 0.0

    def _told(self) -> Iterator[dict[str, str]]:
        """Beside its arrays, by each unit's file."""
        for unit in self.all:
            with safe_open(self.path(unit), "numpy") as file:
                yield file.metadata() or {}

    def remove(self) -> None:
        """These, and what is unfinished of other recipes for the same result."""
        for folder in self.folder.parent.glob(self._any_recipe):
            remove_folder(folder)


def joined(parts: Sequence[Arrays]) -> Arrays:
    """In C order: safetensors would write any other as it lies in memory."""
    return {
        name: np.ascontiguousarray(np.concatenate([part[name] for part in parts]))
        for name in parts[0]
    }
