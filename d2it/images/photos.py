"""The embedded data set: deterministic crops of the photographs that install with two packages.

They are the rows `photos` of data/sources.csv, one class each. Held-out images are other crops of
the same photographs: splitting each by side would change the distribution (49 % of the regions are
fine on one side and 22 % on the other).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from d2it.config.schema import Dataset
from d2it.errors import UserError
from d2it.images.collection import STREAMS, Collection, Split, stream
from d2it.images.decode import open_image
from d2it.sources.fetch import source_path
from d2it.sources.table import read_sources


class Crop(NamedTuple):
    photo: str
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    mirrored: bool


def photo_collection(dataset: Dataset, seed: int, name: str) -> Collection:
    """Training and held-out crops, as many of each photograph as of the next."""
    low, high = dataset.crop
    if not 0 < low <= high <= 1:
        raise UserError(
            f"data.{name}.crop is [{low}, {high}], but must be two rising shares of the short "
            "side in (0, 1]."
        )
    if dataset.train is None or dataset.test is None:
        raise UserError(
            f"Photographs are cut into crops: set how many, data.{name}.train and data.{name}.test."
        )
    rows = [row for row in read_sources().values() if row.group == "photos"]
    photos = [row.name for row in rows]
    splits = {}
    for split, count in zip(STREAMS, (dataset.train, dataset.test), strict=True):
        crops = [draw_crop(photos[i % len(photos)], dataset, seed, split, i) for i in range(count)]
        labels = np.arange(count) % len(photos) if dataset.classes else np.zeros(count)
        splits[split] = Split(crops, labels.astype(np.int64))
    return Collection(
        splits,
        load_crop,
        classes=photos if dataset.classes else [],
        licence="; ".join(f"{row.name}: {row.licence}" for row in rows),
        citation="; ".join(f"{row.name}: {row.note} ({row.version})" for row in rows),
        listing="",  # the recipe holds the sha256 of every photograph
    )


def draw_crop(photo: str, dataset: Dataset, seed: int, split: str, i: int) -> Crop:
    """Crop i of a split: its side and place depend on (seed, split, i) and on nothing else."""
    width, height = read_photo(photo).size
    share, across, down, coin = stream(seed, split, i).random(4).tolist()
    low, high = dataset.crop
    side = (low + (high - low) * share) * min(width, height)
    left, top = across * (width - side), down * (height - side)
    return Crop(photo, (left, top, left + side, top + side), dataset.flip and coin < 0.5)


@lru_cache
def read_photo(photo: str) -> Image.Image:
    with open_image(source_path(photo)) as image:
        return image.convert("RGB")


def load_crop(crop: Crop, size: int) -> np.ndarray:
    """(size, size, 3) uint8."""
    image = read_photo(crop.photo).resize((size, size), Image.Resampling.LANCZOS, box=crop.box)
    pixels = np.asarray(image)
    return pixels[:, ::-1] if crop.mirrored else pixels
