"""A grain map as one word that can be typed: a digit a region, rows joined by commas."""

import re
from collections.abc import Sequence

import numpy as np

from d2it.errors import UserError


def to_rows(map: np.ndarray | Sequence[Sequence[int]]) -> str:
    """(h, w) grains -> e.g. "0110,0110" """
    return ",".join("".join(str(grain) for grain in row) for row in map)


def from_rows(text: str) -> np.ndarray | None:
    """The map (h, w) int64 of a word; None: it is no such word."""
    if not re.fullmatch(r"[0-9]+(,[0-9]+)+", text):
        return None
    rows = text.split(",")
    if len({len(row) for row in rows}) > 1:
        raise UserError("The rows of the grain map differ in length: write a digit a region.")
    return np.array([[int(grain) for grain in row] for row in rows], dtype=np.int64)
