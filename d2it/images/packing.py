"""Images decoded by many processes into the files of a data set, each finished once and for good.

Processes write blocks of images straight into the file, so pixels are never sent between them:
no units as in d2it/units.py, whose arrays one process holds and puts together.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from d2it.errors import UserError
from d2it.files import canonical_digest, read_format, write_format
from d2it.images.decode import reason
from d2it.images.packed import file_entry
from d2it.machine.pools import in_order

BLOCK = 64  # images that a process decodes at a time
FORMAT, VERSION = "d2it-chunk", 2

MapInOrder = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class Block(NamedTuple):
    """Some images of a file that is being written."""

    load: Callable[[Any, int], np.ndarray]
    size: int
    path: Path
    start: int  # number of the first in its file
    items: Sequence[Any]


@cache
def _factors(words: int) -> np.ndarray:
    """Odd numbers of 64 bits, the same in every process."""
    return np.random.default_rng(0).integers(2**64, size=words, dtype=np.uint64) | np.uint64(1)


def fingerprint(pixels: np.ndarray) -> str:
    """64 bits by which equal images are found: each word times its own number, summed modulo 2^64.

    Several times faster than a cryptographic hash, which decoding would wait for. Each word's upper
    half is first folded into its lower one, whose differences reach more bits of a product.
    """
    words = np.frombuffer(pixels.tobytes() + bytes(-pixels.size % 8), np.uint64)
    words = words ^ (words >> np.uint64(32))
    return f"{int((words * _factors(words.size)).sum()):016x}"


def pack_block(block: Block) -> tuple[list[str], dict[int, str]]:
    """Write the images; returns fingerprints of their pixels, and why some have none."""
    digests, reasons = [], {}
    nothing = np.zeros((block.size, block.size, 3), dtype=np.uint8)
    with open(block.path, "r+b") as file:
        file.seek(block.start * nothing.nbytes)
        for i, item in enumerate(block.items, block.start):
            try:
                pixels = np.ascontiguousarray(block.load(item, block.size))
            except Exception as error:  # decoders meet damage with every kind
                pixels, reasons[i] = nothing, reason(error)
            digests.append(fingerprint(pixels))
            file.write(pixels.data)
    return digests, reasons


@dataclass
class Chunk:
    """One file of a split, and the record that it is finished."""

    folder: Path
    name: str
    items: Sequence[Any]
    key: str  # of what it holds
    digests: list[str] = field(default_factory=list)  # fingerprints of each item's pixels
    reasons: dict[int, str] = field(default_factory=dict)  # of items that have none
    entry: dict[str, Any] = field(default_factory=dict)  # in the manifest

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.bin"

    @property
    def record(self) -> Path:
        return self.folder / "finished" / f"{self.name}.json"

    @property
    def temporary(self) -> Path:
        return self.folder / f".{self.name}.bin.part"

    def is_finished(self) -> bool:
        """Whether an earlier run made it from the same items; then what it found is taken over."""
        try:
            found = read_format(self.record, FORMAT, VERSION, made_by="d2it prepare")
            same = found["key"] == self.key and self.path.stat().st_size == found["entry"]["bytes"]
        except (UserError, OSError, KeyError):
            return False
        if same:
            self.digests, self.entry = found["digests"], found["entry"]
            self.reasons = {int(i): why for i, why in found["reasons"].items()}
        return same

    def blocks(self, load: Callable[[Any, int], np.ndarray], size: int) -> Iterator[Block]:
        self.record.unlink(missing_ok=True)  # of other items
        self.temporary.write_bytes(b"")
        for start in range(0, len(self.items), BLOCK):
            yield Block(load, size, self.temporary, start, self.items[start : start + BLOCK])

    def finish(self, size: int) -> None:
        kept = [i for i in range(len(self.items)) if i not in self.reasons]
        if self.reasons:
            shape = (len(self.items), size, size, 3)
            pixels = np.memmap(self.temporary, np.uint8, "r+", shape=shape)
            for to, i in enumerate(kept):
                pixels[to] = pixels[i]
            pixels.flush()
            os.truncate(self.temporary, len(kept) * 3 * size**2)
        with open(self.temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)
        self.entry = {"count": len(kept), **file_entry(self.path)}
        header: dict[str, Any] = {"key": self.key, "entry": self.entry}
        header |= {"digests": self.digests, "reasons": self.reasons}
        write_format(self.record, FORMAT, VERSION, header)

    def discard(self) -> None:
        self.record.unlink()
        self.path.unlink()


def chunks_of(folder: Path, split: str, items: Sequence[Any], step: int, key: str) -> list[Chunk]:
    """The files of a split, `step` images each."""
    starts = range(0, len(items), step)
    parts = [items[start : start + step] for start in starts]
    return [
        Chunk(folder, f"{split}-{i:05d}", part, canonical_digest([key, [list(x) for x in part]]))
        for i, part in enumerate(parts)
    ]


def pack(
    chunks: Sequence[Chunk],
    load: Callable[[Any, int], np.ndarray],
    size: int,
    run: MapInOrder,
    bar: tqdm,
) -> None:
    """Make the files that are not finished yet."""
    todo = [chunk for chunk in chunks if not chunk.is_finished()]
    bar.update(sum(len(chunk.items) for chunk in chunks) - sum(len(c.items) for c in todo))
    results = run(pack_block, (block for chunk in todo for block in chunk.blocks(load, size)))
    for chunk in todo:
        while len(chunk.digests) < len(chunk.items):
            digests, reasons = next(results)
            chunk.digests += digests
            chunk.reasons |= reasons
            bar.update(len(digests))
        chunk.finish(size)


@contextmanager
def runner(processes: int) -> Iterator[MapInOrder]:
    """`map`, here or in other processes: decoding holds Python's lock, so threads do not help."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_serve
    ) as pool:
        try:
            yield partial(in_order, pool, 4 * processes)
        except BrokenProcessPool:
            raise UserError(
                "A process that decodes images was ended from outside, perhaps for want of "
                "memory: run the same command again with fewer --processes, it goes on."
            ) from None


def _serve() -> None:
    """A process of the pool leaves Ctrl-C to its parent, and ends when that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None  # it was spawned

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
