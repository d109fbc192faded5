"""The data set `emoji`: Twemoji's pictures on white, in Unicode's nine groups.

data/emoji.csv says which are used and which are held out (tools/emoji_table.py writes it). They lie
in a random order, so that the first n are of every group.
"""

import csv
from typing import NamedTuple

import numpy as np

from d2it.config.recipe import emoji_table
from d2it.config.schema import Dataset
from d2it.errors import UserError
from d2it.images.archive import list_pictures
from d2it.images.collection import STREAMS, Collection, Split, stream
from d2it.images.decode import load_image
from d2it.sources.fetch import weights_file
from d2it.sources.table import find_source


class Picture(NamedTuple):
    codepoints: str  # the picture's name, e.g. 1f469-200d-1f680
    group: str
    split: str


def emoji_collection(dataset: Dataset, seed: int, name: str) -> Collection:
    """Training and held-out pictures, all or as many as are asked for."""
    if dataset.crop != (1.0, 1.0):
        raise UserError(f"data.{name}.crop would cut emoji off: leave it at [1.0, 1.0].")
    pictures = {
        picture.name.rpartition("/")[2].removesuffix(".png"): picture
        for picture in list_pictures(weights_file("twemoji"))
    }
    rows, groups, splits = read_table(), emoji_groups(), {}
    for split, count in zip(STREAMS, (dataset.train, dataset.test), strict=True):
        some = [row for row in rows if row.split == split]
        if count is not None and count > len(some):
            raise UserError(
                f"data.{name}.{split} is {count}, but there are {len(some)} such emoji: lower it, "
                "or set it to null for all."
            )
        chosen = [some[i] for i in stream(seed, split).permutation(len(some))[:count]]
        labels = [groups.index(row.group) if dataset.classes else 0 for row in chosen]
        if unknown := [row.codepoints for row in chosen if row.codepoints not in pictures]:
            raise damaged(f"{unknown[0]} is no picture of Twemoji's")
        items = [pictures[row.codepoints] for row in chosen]
        splits[split] = Split(items, np.array(labels, dtype=np.int64))
    source = find_source("twemoji")
    return Collection(
        splits,
        load_image,
        classes=groups if dataset.classes else [],
        licence=source.licence,
        citation=f"{source.note} ({source.version})",
        listing="",  # the recipe holds the sha256 of the archive and of the table
    )


def emoji_groups() -> list[str]:
    """The names of the classes, in Unicode's order."""
    return list(dict.fromkeys(row.group for row in read_table()))


def read_table() -> list[Picture]:
    with open(emoji_table(), encoding="utf-8", newline="") as file:
        try:
            return [Picture(**row) for row in csv.DictReader(file)]
        except (TypeError, UnicodeDecodeError, csv.Error) as error:
            raise damaged(str(error)) from None


def damaged(why: str) -> UserError:
    return UserError(f"{emoji_table()} is damaged ({why}): restore it from the repository.")
