"""`d2it prepare` beside a plain loop of Pillow that does the same, on a folder made here.

    python -m benchmarks.prepare [--images 10000] [--processes N]

Photographs of the embedded data set, cut anew for every file and kept as JPEG of ImageNet's usual
500 x 375 px, packed at 256 px. The loop opens, decodes, crops and writes pixels to one file; what
else `d2it prepare` does is to list the folder, to find equal images (a hash of each one's pixels),
and to sum the file's sha256. They take turns; medians of the rounds are shown. A CPU-second is one
of a core, user and system together, so what else the machine does counts little.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import checkout, kept, significant, write
from benchmarks.demo import spent
from d2it.config import Config, load, paths
from d2it.config.schema import Dataset
from d2it.images.packed import PackedImages
from d2it.images.photos import read_photo
from d2it.images.prepare import prepare
from d2it.sources.table import read_sources

SIZE, SHAPE = 256, (500, 375)


def make_folder(folder: Path, count: int) -> None:
    photos = [row.name for row in read_sources().values() if row.group == "photos"]
    rng = np.random.default_rng(0)
    for i in range(count):
        photo = read_photo(photos[i % len(photos)])
        width = rng.uniform(0.5, 1) * min(photo.width, photo.height * 4 / 3)
        height = width * 3 / 4
        left, top = rng.random(2) * (photo.width - width, photo.height - height)
        path = folder / f"{i // 1000:03d}" / f"{i:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo.resize(SHAPE, box=(left, top, left + width, top + height)).save(path, quality=95)


def plain(files: list[Path]) -> Iterator[np.ndarray]:
    """ADM's centre crop in the fewest words."""
    for file in files:
        image = Image.open(file).convert("RGB")
        while min(image.size) >= 2 * SIZE:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = SIZE / min(image.size)
        shape = (round(image.width * scale), round(image.height * scale))
        pixels = np.asarray(image.resize(shape, Image.Resampling.BICUBIC))
        top, left = ((side - SIZE) // 2 for side in pixels.shape[:2])
        yield pixels[top : top + SIZE, left : left + SIZE]


def bare(files: list[Path]) -> None:
    for _ in plain(files):
        pass


def written(files: list[Path], path: Path) -> None:
    with open(path, "wb") as file:
        for pixels in plain(files):
            file.write(np.ascontiguousarray(pixels).data)
        os.fsync(file.fileno())


def packed(config: Config, processes: int) -> None:
    shutil.rmtree(paths.images(config, "many"), ignore_errors=True)
    prepare(config, "many", processes)


def check_equal(config: Config, path: Path) -> None:
    maps = PackedImages.open(paths.images(config, "many"), "train").maps
    found = np.concatenate(maps).reshape(-1)
    assert np.array_equal(found, np.fromfile(path, np.uint8)), "they disagree"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    checkout()
    with tempfile.TemporaryDirectory() as place, chdir(place):
        source, kept_by_plain = Path(place, "images"), Path(place, "plain.bin")
        source.mkdir()
        make_folder(source, given.images)
        files = sorted(source.rglob("*.jpg"))
        whole = Dataset(source=str(source), size=SIZE, read="plain", test=0)
        config = replace(load(), name="many", data={"many": whole})
        calls: dict[tuple[str, int], Callable[[], None]] = {
            ("plain Pillow, nothing kept", 1): lambda: bare(files),
            ("plain Pillow", 1): lambda: written(files, kept_by_plain),
        }
        for processes in sorted({1, given.processes}):
            calls["d2it prepare", processes] = lambda n=processes: packed(config, n)
        rounds: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in calls}
        bare(files)  # so that all read from memory, not from the disk
        for _ in range(given.repeats):
            for key, call in calls.items():
                began = time.perf_counter()
                rounds[key].append((spent(call), time.perf_counter() - began))
            check_equal(config, kept_by_plain)
    base = [cpu for cpu, _ in rounds["plain Pillow", 1]]
    rows = []
    for (what, processes), turns in rounds.items():
        used, seconds = map(list, zip(*turns, strict=True))
        row: dict[str, Any] = {"what": what, "processes": processes}
        row["images per CPU-second"] = significant(given.images / statistics.median(used))
        ratios = [one / other for one, other in zip(base, used, strict=True)]
        row["over plain Pillow"] = significant(statistics.median(ratios))
        row |= {"CPU-seconds": significant(statistics.median(used)), "rounds": kept(used)}
        rows.append(row | {"seconds": significant(statistics.median(seconds))})
    write("prepare", "cpu", {"images": given.images, "side": SIZE, "source": list(SHAPE)}, rows)


if __name__ == "__main__":
    main()
