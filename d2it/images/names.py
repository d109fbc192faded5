"""What the name of a file says: whether it is a picture or holds some, and of which part."""

import os
import re

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif"}
ARCHIVES = {".zip", ".tar", ".parquet"}

# data/train-00000-of-00294.parquet, imagenet1k-validation-07.tar
PART = re.compile(r"(?:^|[^a-z])(train|test|val)(?:ing|id|idation)?(?![a-z])", re.IGNORECASE)


def is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def part_of(name: str) -> str | None:
    """`train`, `test` or `val`, where a shard of a data set says so."""
    found = PART.findall(name)  # the last one is the nearest to the file
    return found[-1].lower() if found else None
