"""The numbers that the paper prints: data/published/."""

import csv
from pathlib import Path

from d2it.errors import UserError


def published(name: str) -> list[dict[str, str]]:
    """Rows of data/published/<name>.csv, as printed."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        path = folder / "data" / "published" / f"{name}.csv"
        if path.is_file():
            with open(path, encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
    raise UserError(
        f"data/published/{name}.csv was not found: run d2it from the root of the repository."
    )
