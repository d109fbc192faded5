"""The numbers that the paper prints: data/published/."""

import csv
import io

from d2it.config.listed import listed


def published(name: str) -> list[dict[str, str]]:
    """Rows of data/published/<name>.csv, as printed."""
    text = listed(f"data/published/{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))
