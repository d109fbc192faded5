"""Entropy quantiles of a data set, and the cuts that a ratio asks for (section 3.1). No torch."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypedDict

import numpy as np

from d2it.config import Config, paths, recipe
from d2it.config.documents import conform
from d2it.config.ratios import at_least, is_constant
from d2it.config.types import Kernel, Ratio
from d2it.errors import SETTINGS, UserError
from d2it.files import canonical_digest, damaged, read_format, write_format
from d2it.images.packed import read_manifest

FORMAT, VERSION = "d2it-thresholds", 2
USUAL: Kernel = (0.01, 256, (-1, 1))  # of section 3.1
SHARED = ("dataset", "images_digest", "bins", "sigma")  # by the tables of all region sizes
# Cuts of the shares that need no quantile: no region lies above +inf, every one above -inf.
EXTREMES = {0.0: math.inf, 1.0: -math.inf}


class Table(TypedDict):
    regions: int
    quantiles: list[float]


class Stored(TypedDict):
    """thresholds.json, beside its format and version."""

    dataset: str
    images_digest: str
    bins: int
    sigma: float
    grey_range: list[int]
    tables: dict[str, Table]


@dataclass(frozen=True)
class Thresholds:
    """Quantiles of the entropy of a data set's regions of one size."""

    dataset: str
    images_digest: str
    region: int  # side in pixels
    bins: int
    sigma: float
    regions: int  # that were measured
    quantiles: tuple[float, ...]  # at 0, 1/n, ..., 1
    grey_range: tuple[int, int] = (-1, 1)  # of the bins

    def cut(self, ratio: Ratio) -> list[float]:
        """k-1 rising entropies: above the i-th lies the share of regions of grain i or finer."""
        return cuts_at(self.quantiles, ratio)

    def above(self, cut: float) -> float:
        """The share of regions whose entropy exceeds `cut`: the inverse of `cut` for two grains."""
        steps = np.linspace(0, 1, len(self.quantiles))
        return 1 - float(np.interp(cut, self.quantiles, steps, left=0, right=1))

    @property
    def digest(self) -> str:
        """Of this table alone: those of other region sizes may come and go."""
        table = asdict(self)
        if table["grey_range"] == (-1, 1):  # younger than some digests
            table.pop("grey_range")
        return canonical_digest(table)

    @classmethod
    def load(cls, path: Path | str, *, region: int, kernel: Kernel = USUAL) -> "Thresholds":
        """The stored table of one region size, measured as the caller measures entropy."""
        made_by = f"d2it calibrate {Path(path).parent.name}"
        value = read_format(path, FORMAT, VERSION, made_by=made_by)
        conform(Stored, value, path, made_by)
        sigma, bins, grey_range = kernel
        for key, wanted in {"bins": bins, "sigma": sigma, "grey_range": list(grey_range)}.items():
            if value[key] != wanted:
                raise UserError(
                    f"{path} was measured with {key} {value[key]}, but {wanted} is asked for: "
                    f"measure it again with `{made_by}{SETTINGS}`."
                )
        tables = value["tables"]
        if str(region) not in tables:
            sizes = ", ".join(sorted(tables, key=int))
            raise UserError(
                f"{path} was measured with regions of {sizes} px, but {region} is asked for: "
                f"measure it again with `{made_by}{SETTINGS}`."
            )
        quantiles, top = tables[str(region)]["quantiles"], math.log(bins)
        bounds = [0.0, *quantiles, top]
        if len(quantiles) < 2 or bounds != sorted(bounds):
            raise damaged(path, made_by, f"quantiles must rise, and lie from 0 to {top:.4g} nats")
        found = value | tables[str(region)] | {"region": region}
        stored = {field.name: found[field.name] for field in fields(cls)}
        tuples = {name: tuple(stored[name]) for name in ("quantiles", "grey_range")}
        return cls(**{**stored, **tuples})

    @classmethod
    def of_entropy(cls, entropy: np.ndarray, name: str, region: int) -> "Thresholds":
        """The exact quantiles of a few regions, e.g. of one photograph."""
        table = np.quantile(entropy.astype(np.float64), np.linspace(0, 1, 1001))
        sigma, bins, _ = USUAL
        return cls(name, "", region, bins, sigma, entropy.size, tuple(table.tolist()))


def cuts_at(quantiles: Sequence[float] | np.ndarray, ratio: Ratio) -> list[float]:
    """See Thresholds.cut. quantiles: the entropies at 0, 1/n, ..., 1."""
    steps = np.linspace(0, 1, len(quantiles))
    measured = [float(np.interp(1 - share, steps, quantiles)) for share in at_least(ratio)]
    return [EXTREMES.get(s, cut) for s, cut in zip(at_least(ratio), measured, strict=True)]


def save(path: Path | str, tables: Sequence[Thresholds]) -> None:
    """One file of what was measured of one data set, a table for each region size."""
    header = {"grey_range": list(tables[0].grey_range)}
    shared = {name: getattr(tables[0], name) for name in SHARED}
    by_region = {
        str(table.region): {"regions": table.regions, "quantiles": table.quantiles}
        for table in tables
    }
    write_format(path, FORMAT, VERSION, header | shared | {"tables": by_region})


def constant_cuts(ratio: Ratio) -> list[float] | None:
    """The cuts of a ratio that makes every map constant, which needs no thresholds; else None."""
    return [EXTREMES[share] for share in at_least(ratio)] if is_constant(ratio) else None


def cuts_of(config: Config, data: str, region: int, ratio: Ratio) -> list[float]:
    """The cuts for the images of `data`; thresholds are read only where the ratio needs them."""
    return constant_cuts(ratio) or thresholds_of(config, data, region).cut(ratio)


def thresholds_of(config: Config, data: str, region: int) -> Thresholds:
    """The thresholds that rule `data`: its own, or those of the data set it takes them from."""
    source = recipe.thresholds_source(config, data)
    path = paths.thresholds(config, source)
    thresholds = Thresholds.load(path, region=region, kernel=config.kernel)
    images = paths.images(config, source)
    # Thresholds may come without their images, as ImageNet's may; a data set's own never do.
    known = source == data or (images / "manifest.json").exists()
    digest = read_manifest(images)["digest"] if known else thresholds.images_digest
    if (thresholds.dataset, thresholds.images_digest) != (source, digest):
        raise UserError(
            f"{path} was measured on other images than those of {source}: measure it again with "
            f"`d2it calibrate {source}{SETTINGS}`, or set data.{data}.thresholds_from."
        )
    return thresholds
