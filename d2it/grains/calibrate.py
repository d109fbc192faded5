"""Measuring the entropy quantiles of a data set's regions (section 3.1)."""

import math
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch

from d2it.config import Config, paths
from d2it.config.recipe import regions_of
from d2it.config.types import Kernel
from d2it.errors import UserError
from d2it.grains.entropy import entropy_map
from d2it.grains.thresholds import Thresholds, save
from d2it.images.packed import PackedImages, open_images
from d2it.images.packing import runner
from d2it.images.prepare import find_dataset
from d2it.machine.device import find_accelerator
from d2it.machine.pools import cpus
from d2it.units import Arrays, Unit, Units, divide

CELLS = 2**16  # of the histogram of entropies over [0, ln bins]: quantiles are exact to 8.5e-5
PIXELS = 2**22  # whose entropy is computed at a time
UNIT = 2**14  # images whose histograms are kept together
MANY = 4  # units, from which on other processes repay their start


def calibrate(config: Config, data: str, processes: int | None = None) -> bool:
    """Measure the entropy quantiles of the training images; False if it was done already.

    For every region size that a DVAE run asks for, in one pass. Histograms of units add up exactly,
    so they are counted by any number of processes, and a killed run goes on with them.
    """
    find_dataset(config, data)
    images = open_images(config, data, "train")
    path, regions = paths.thresholds(config, data), regions_of(config, data)
    if is_current(path, config, regions, images.digest):
        return False
    if not len(images):
        raise UserError(f"{images.folder} has no training images: raise data.{data}.train.")
    recipe = [images.digest, regions, *config.kernel]
    units = Units(path, recipe, divide("train", range(len(images)), UNIT))
    if processes is None:  # others take seconds to start, and a GPU needs none
        many = len(units.all) >= MANY and find_accelerator() is None
        processes = min(cpus(), len(units.all)) if many else 1
    count_unit = partial(count_regions, images.folder, regions, config.kernel)
    with runner(processes) as run:
        todo = [unit for unit in units.all if not units.is_sound(unit)]
        counted = zip(todo, run(count_unit, (unit.span for unit in todo)), strict=True)

        def one(unit: Unit, _: object) -> Arrays:  # another command may have counted some by now
            return {"counts": next(counts for each, counts in counted if each == unit)}

        units.compute(one, find_accelerator() or "cpu", f"calibrate {data}")
    histograms = np.sum([units.load(unit)["counts"] for unit in units.all], axis=0)
    top = math.log(config.bins)
    tables = [
        Thresholds(
            dataset=data,
            images_digest=images.digest,
            region=region,
            bins=config.bins,
            sigma=config.sigma,
            regions=int(histogram.sum()),
            quantiles=quantile_table(histogram, top, config.quantiles),
            grey_range=config.grey_range,
        )
        for region, histogram in zip(regions, histograms, strict=True)
    ]
    save(path, tables)
    units.remove()
    return True


def count_regions(folder: Path, regions: list[int], kernel: Kernel, span: range) -> np.ndarray:
    """Histograms of the entropies of these images, (region sizes, cells) int64."""
    if parent_process():  # one of many
        torch.set_num_threads(1)
    images = PackedImages.open(folder, "train")
    histograms = np.zeros((len(regions), CELLS), dtype=np.int64)
    top = math.log(kernel[1])  # the largest entropy of as many bins
    device = find_accelerator() or torch.device("cpu")
    block = max(1, PIXELS // images.size**2)
    for start in range(span.start, span.stop, block):
        indices = np.arange(start, min(start + block, span.stop))
        pixels = torch.from_numpy(images[indices]).to(device)
        for histogram, region in zip(histograms, regions, strict=True):
            entropy = entropy_map(pixels, region, *kernel)
            histogram += count(entropy.cpu().numpy(), top)
    return histograms


def is_current(path: Path, config: Config, regions: list[int], images_digest: str) -> bool:
    """Whether `path` holds every table that `config` asks for."""
    try:
        found = [Thresholds.load(path, region=region, kernel=config.kernel) for region in regions]
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
