"""Entropy quantiles of a data set, and the thresholds that a ratio asks for (section 3.1)."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from d2it.config import Config, paths, recipe
from d2it.config.schema import Ratio
from d2it.data.images import open_images, read_manifest
from d2it.data.prepare import find_dataset
from d2it.errors import UserError
from d2it.files import read_format, write_json
from d2it.grains import at_least, entropy_map

FORMAT, VERSION = "d2it-thresholds", 1
GREY_RANGE = [-1, 1]  # of the kernel density (Eq 2)
CELLS = 2**16  # of the histogram of entropies over [0, ln bins]: quantiles are exact to 8.5e-5
PIXELS = 2**22  # whose entropy is computed at a time
# Cuts of the shares that need no quantile: no region lies above +inf, every one above -inf.
EXTREMES = {0.0: math.inf, 1.0: -math.inf}


@dataclass(frozen=True)
class Thresholds:
    """Quantiles of the entropy of a data set's regions."""

    dataset: str
    images_digest: str
    region: int  # side in pixels
    bins: int
    sigma: float
    regions: int  # that were measured
    quantiles: tuple[float, ...]  # at 0, 1/n, ..., 1

    def cut(self, ratio: Ratio) -> list[float]:
        """k-1 rising entropies: above the i-th lies the share of regions of grain i or finer."""
        steps = np.linspace(0, 1, len(self.quantiles))
        measured = [float(np.interp(1 - share, steps, self.quantiles)) for share in at_least(ratio)]
        return [EXTREMES.get(s, cut) for s, cut in zip(at_least(ratio), measured, strict=True)]

    def save(self, path: Path | str) -> None:
        header = {"format": FORMAT, "version": VERSION, "grey_range": GREY_RANGE}
        write_json(path, header | asdict(self))

    @classmethod
    def load(cls, path: Path | str, *, region: int, bins: int, sigma: float) -> "Thresholds":
        """The stored table, which must have been measured as the caller measures entropy."""
        made_by = f"d2it calibrate {Path(path).parent.name}"
        value = read_format(path, FORMAT, VERSION, made_by=made_by)
        asked = {"region": region, "bins": bins, "sigma": sigma, "grey_range": GREY_RANGE}
        for key, wanted in asked.items():
            if value.get(key) != wanted:
                raise UserError(
                    f"{path} was measured with {key} {value.get(key)}, but {wanted} is asked for: "
                    f"measure it again with `{made_by}`."
                )
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in value]:
            raise UserError(f"{path} lacks {missing[0]!r}: make it again with `{made_by}`.")
        stored = {name: value[name] for name in names}
        return cls(**{**stored, "quantiles": tuple(stored["quantiles"])})

    @classmethod
    def of_entropy(cls, entropy: np.ndarray, name: str, region: int) -> "Thresholds":
        """The exact quantiles of a few regions, e.g. of one photograph."""
        table = np.quantile(entropy.astype(np.float64), np.linspace(0, 1, 1001))
        return cls(name, "", region, 256, 0.01, entropy.size, tuple(table.tolist()))


def constant_cuts(ratio: Ratio) -> list[float] | None:
    """The cuts of a ratio that makes every map constant, which needs no thresholds; else None."""
    shares = at_least(ratio)
    return [EXTREMES[share] for share in shares] if set(shares) <= set(EXTREMES) else None


def cuts_of(config: Config, data: str, ratio: Ratio) -> list[float]:
    """The cuts for the images of `data`; thresholds are read only where the ratio needs them."""
    return constant_cuts(ratio) or thresholds_of(config, data).cut(ratio)


def thresholds_of(config: Config, data: str) -> Thresholds:
    """The thresholds that rule `data`: its own, or those of the data set it takes them from."""
    source = recipe.thresholds_source(config, data)
    path = paths.thresholds(config, source)
    thresholds = Thresholds.load(
        path, region=config.model.factors[0], bins=config.bins, sigma=config.sigma
    )
    images = paths.images(config, source)
    # Thresholds may come without their images, as ImageNet's may; a data set's own never do.
    known = source == data or (images / "manifest.json").exists()
    digest = read_manifest(images)["digest"] if known else thresholds.images_digest
    if (thresholds.dataset, thresholds.images_digest) != (source, digest):
        raise UserError(
            f"{path} was measured on other images than those of {source}: measure it again with "
            f"`d2it calibrate {source}`, or set data.{data}.thresholds_from."
        )
    return thresholds


def calibrate(config: Config, data: str) -> bool:
    """Measure the entropy quantiles of the training images; False if it was done already."""
    find_dataset(config, data)
    images = open_images(config, data, "train")
    path, region = paths.thresholds(config, data), config.model.factors[0]
    if is_current(path, config, images.digest):
        return False
    if not len(images):
        raise UserError(f"{images.folder} has no training images: raise data.{data}.train.")
    top = math.log(config.bins)  # the largest entropy of as many bins
    histogram = np.zeros(CELLS, dtype=np.int64)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = max(1, PIXELS // images.size**2)
    with tqdm(total=len(images), unit="image", desc=f"calibrate {data}", disable=None) as bar:
        for start in range(0, len(images), block):
            pixels = images[np.arange(start, min(start + block, len(images)))]
            entropy = entropy_map(
                torch.from_numpy(pixels).to(device), region, config.sigma, config.bins
            )
            histogram += count(entropy.cpu().numpy(), top)
            bar.update(len(pixels))
    Thresholds(
        dataset=data,
        images_digest=images.digest,
        region=region,
        bins=config.bins,
        sigma=config.sigma,
        regions=int(histogram.sum()),
        quantiles=quantile_table(histogram, top, config.quantiles),
    ).save(path)
    return True


def is_current(path: Path, config: Config, images_digest: str) -> bool:
    """Whether the table in `path` is the one that `config` asks for."""
    try:
        found = Thresholds.load(
            path, region=config.model.factors[0], bins=config.bins, sigma=config.sigma
        )
    except UserError:
        return False
    return found.images_digest == images_digest and len(found.quantiles) == config.quantiles + 1


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
