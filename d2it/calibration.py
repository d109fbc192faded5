"""Measuring the entropy quantiles of a data set's regions (section 3.1)."""

import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from d2it.config import Config, paths
from d2it.config.recipe import regions_of
from d2it.data.images import open_images
from d2it.data.prepare import find_dataset
from d2it.errors import UserError
from d2it.grains import entropy_map
from d2it.thresholds import Thresholds, save

CELLS = 2**16  # of the histogram of entropies over [0, ln bins]: quantiles are exact to 8.5e-5
PIXELS = 2**22  # whose entropy is computed at a time


def calibrate(config: Config, data: str) -> bool:
    """Measure the entropy quantiles of the training images; False if it was done already.

    For every region size that a DVAE run asks for, in one pass.
    """
    find_dataset(config, data)
    images = open_images(config, data, "train")
    path, regions = paths.thresholds(config, data), regions_of(config, data)
    if is_current(path, config, regions, images.digest):
        return False
    if not len(images):
        raise UserError(f"{images.folder} has no training images: raise data.{data}.train.")
    top = math.log(config.bins)  # the largest entropy of as many bins
    histograms = {region: np.zeros(CELLS, dtype=np.int64) for region in regions}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = max(1, PIXELS // images.size**2)
    with tqdm(total=len(images), unit="image", desc=f"calibrate {data}", disable=None) as bar:
        for start in range(0, len(images), block):
            chosen = images[np.arange(start, min(start + block, len(images)))]
            pixels = torch.from_numpy(chosen).to(device)
            for region in regions:
                entropy = entropy_map(pixels, region, config.sigma, config.bins)
                histograms[region] += count(entropy.cpu().numpy(), top)
            bar.update(len(pixels))
    tables = [
        Thresholds(
            dataset=data,
            images_digest=images.digest,
            region=region,
            bins=config.bins,
            sigma=config.sigma,
            regions=int(histogram.sum()),
            quantiles=quantile_table(histogram, top, config.quantiles),
        )
        for region, histogram in histograms.items()
    ]
    save(path, tables)
    return True


def is_current(path: Path, config: Config, regions: list[int], images_digest: str) -> bool:
    """Whether `path` holds every table that `config` asks for."""
    try:
        found = [
            Thresholds.load(path, region=region, bins=config.bins, sigma=config.sigma)
            for region in regions
        ]
    except UserError:
        return False
    asked = (images_digest, config.quantiles + 1)
    return all((table.images_digest, len(table.quantiles)) == asked for table in found)


def count(entropy: np.ndarray, top: float) -> np.ndarray:
    """Histogram over [0, top]. Histograms of blocks add up to the whole's, in any order."""
    cell = np.clip(entropy.ravel().astype(np.float64) / top * CELLS, 0, CELLS - 1).astype(np.int64)
    return np.bincount(cell, minlength=CELLS)


def quantile_table(histogram: np.ndarray, top: float, steps: int) -> tuple[float, ...]:
    """Quantiles at 0, 1/steps, ..., 1, linear within a cell."""
    below = np.concatenate([[0], np.cumsum(histogram)])  # regions below each cell
    total = below[-1]
    # Half a region from either end, so that the first and last quantile fall into filled cells.
    ranks = np.clip(np.linspace(0, 1, steps + 1) * total, 0.5, total - 0.5)
    cell = np.searchsorted(below[1:], ranks)
    within = (ranks - below[cell]) / histogram[cell]
    return tuple(((cell + within) * (top / CELLS)).tolist())
