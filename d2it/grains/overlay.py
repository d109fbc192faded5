"""Grain maps drawn over their images, as in Figure 3: red is fine, blue is coarse."""

from collections.abc import Sequence

import numpy as np

FINE, COARSE = np.array([220, 30, 30]), np.array([30, 70, 220])
STRENGTH = 0.4  # of the colour, beside the image in grey
LINE = 0.75  # brightness of the first row and column of pixels of each region
GAP = 8  # white pixels between pictures
SHEETS = ("grid.png", "overlay.png")  # of `d2it sample`, each of many pictures


def overlay(image: np.ndarray, map: np.ndarray, k: int = 2) -> np.ndarray:
    """(H, W, 3) uint8 image and (h, w) grains -> (H, W, 3) uint8. Grains between are purple."""
    region = image.shape[0] // map.shape[0]
    colour = colours(map, k).repeat(region, 0).repeat(region, 1)
    grey = image.mean(2, keepdims=True)  # so that red and blue things are not taken for grains
    mixed = (1 - STRENGTH) * grey + STRENGTH * colour
    if region >= 8:  # smaller regions would be mostly line
        mixed[::region] *= LINE
        mixed[:, ::region] *= LINE
    return mixed.round().astype(np.uint8)


def colours(map: np.ndarray, k: int) -> np.ndarray:
    """(...) -> (..., 3) float64: red is finest, blue is coarsest, purple between."""
    share = (np.asarray(map) / (k - 1))[..., None]
    return share * FINE + (1 - share) * COARSE


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows of `columns`; white where the last row is short."""
    blank = np.full_like(images[0], 255)
    padded = [*images, *[blank] * (-len(images) % columns)]
    rows = [beside(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    gap = np.full((GAP, *rows[0].shape[1:]), 255, dtype=np.uint8)
    return np.concatenate([part for row in rows for part in (gap, row)][1:], axis=0)


def beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one height in a row."""
    gap = np.full((images[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    row = [part for image in images for part in (gap, image)]
    return np.concatenate(row[1:], axis=1)
