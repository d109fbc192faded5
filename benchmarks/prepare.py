"""`d2it prepare` beside a plain loop of Pillow that does the same, on a folder made here.

    python -m benchmarks.prepare [--images 20000] [--processes N]

Photographs of the embedded data set, cut anew for every file and kept as JPEG of ImageNet's usual
500 x 375 px, packed at 256 px. The loop opens, decodes, crops and writes pixels to one file; what
else `d2it prepare` does is to list the folder, to find equal images, and to sum the file's sha256.
Each is measured once, one after the other.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import checkout, write
from d2it.config import load, paths
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


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    checkout()
    config = load()
    with tempfile.TemporaryDirectory() as place:
        source, work = Path(place, "images"), Path(place, "work")
        source.mkdir()
        work.mkdir()
        make_folder(source, given.images)
        files = sorted(source.rglob("*.jpg"))
        whole = Dataset(source=str(source), size=SIZE, read="plain", test=0)
        config = replace(config, data={"many": whole})
        for _ in plain(files):  # so that both read from memory, not from the disk
            pass
        began = time.perf_counter()
        for _ in plain(files):
            pass
        seconds = {("plain Pillow, nothing kept", 1): time.perf_counter() - began}
        began = time.perf_counter()
        with open(work / "plain.bin", "wb") as file:
            for pixels in plain(files):
                file.write(np.ascontiguousarray(pixels).data)
            os.fsync(file.fileno())
        seconds["plain Pillow", 1] = time.perf_counter() - began
        kept = np.fromfile(work / "plain.bin", np.uint8).reshape(given.images, -1)
        for processes in sorted({1, given.processes}):
            with inside(work):
                began = time.perf_counter()
                prepare(replace(config, name=f"by{processes}"), "many", processes)
                seconds["d2it prepare", processes] = time.perf_counter() - began
                packed = PackedImages.open(
                    paths.images(replace(config, name=f"by{processes}"), "many"), "train"
                )
                found = np.concatenate(packed.maps).reshape(given.images, -1)
                assert np.array_equal(found, kept), "the loop and d2it prepare disagree"
    base = given.images / seconds["plain Pillow", 1]
    rows = [
        {
            "what": what,
            "processes": processes,
            "seconds": round(spent, 2),
            "images_per_second_per_core": round(given.images / spent / processes, 1),
            "over_plain": round(given.images / spent / processes / base, 3),
        }
        for (what, processes), spent in seconds.items()
    ]
    write("prepare", "cpu", {"images": given.images, "side": SIZE, "source": list(SHAPE)}, rows)


if __name__ == "__main__":
    main()
