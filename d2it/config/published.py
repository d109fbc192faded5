"""The numbers that the paper prints: data/published/."""

import csv

from d2it.config.paths import in_repository


def published(name: str) -> list[dict[str, str]]:
    """Rows of data/published/<name>.csv, as printed."""
    path = in_repository(f"data/published/{name}.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
