"""Cached latents: posterior moments of every grain of every image and its mirror (docs/formats.md).

Every grain is kept, so one encoding serves any ratio: maps come from the entropies and a ratio's
cuts, and the posterior is drawn afresh whenever a code is used. Mirror 1 is the encoding of the
mirrored image: the encoder does not commute with mirroring, so a mirrored code would be another.
"""

import shlex
from collections.abc import Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from d2it.config.documents import conform
from d2it.config.recipe import digest, ratio_key
from d2it.config.run import Run
from d2it.config.types import Learned, Ratio
from d2it.errors import SETTINGS, UserError
from d2it.files import File, read_format
from d2it.grains.maps import grain_map, route
from d2it.grains.thresholds import cuts_at
from d2it.models.dvae import draw_code

FORMAT, VERSION = "d2it-latents", 1
MIRRORS = 2
Batch = dict[str, Tensor]


class Shard(TypedDict):
    name: str
    count: int


class Split(TypedDict):
    count: int
    shards: list[Shard]


class Measured(TypedDict):
    """Of one ratio; of random ones `quantiles` in place of `cuts`."""

    cuts: NotRequired[list[float | str]]  # "inf" and "-inf" as words
    quantiles: NotRequired[list[float]]
    reached: NotRequired[float | list[float]]
    scale: float
    std: NotRequired[list[float | None]]


class Manifest(TypedDict):
    """What is read of manifest.json."""

    recipe_digest: str
    factors: list[int]
    channels: int
    side: int
    classes: int
    splits: dict[str, Split]
    files: dict[str, File]
    ratios: dict[str, Measured]


def shard_arrays(header: dict[str, Any], count: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The arrays of a shard of `count` images: ending of the file's name → dtype and shape."""
    factors, side = header["factors"], header["side"]
    sides = [side * factors[-1] // factor for factor in factors]
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {
        f"grain{i}": ("<f2", (count, MIRRORS, 2, header["channels"], s, s))
        for i, s in enumerate(sides)
    }
    arrays["entropy"] = ("<f4", (count, sides[0], sides[0]))
    arrays["labels"] = ("<i8", (count,))
    return arrays


class Latents:
    """One split of a data set's latents. Reads only what is asked for."""

    def __init__(self, folder: Path, split: str, header: dict[str, Any]) -> None:
        self.folder, self.split, self.header = folder, split, header
        self.factors: list[int] = header["factors"]
        self.channels: int = header["channels"]
        self.side: int = header["side"]  # of the finest grid
        self.classes: int = header["classes"]
        if split not in header["splits"]:
            raise UserError(
                f"{folder} has no split {split!r}: choose one of {', '.join(header['splits'])}."
            )
        shards = header["splits"][split]["shards"]
        self._starts = np.cumsum([0, *(shard["count"] for shard in shards)])
        self._shards = [self._map(shard) for shard in shards]
        labels = [shard["labels"] for shard in self._shards]
        self.labels = np.concatenate([np.zeros(0, np.int64), *labels])  # a split may be empty
        known = max(1, self.classes)  # unlabelled images are all 0
        if ((self.labels < 0) | (self.labels >= known)).any():
            raise UserError(
                f"{folder} has labels outside 0..{known - 1}, those of its {self.classes} classes: "
                f"delete it and run `d2it encode {folder.name}{SETTINGS}`."
            )

    @classmethod
    def open(cls, folder: Path | str, split: str) -> "Latents":
        folder = Path(folder)
        path, made_by = folder / "manifest.json", f"d2it encode {folder.name}"
        header = read_format(path, FORMAT, VERSION, made_by=made_by)
        conform(Manifest, header, path, made_by)
        return cls(folder, split, header)

    def _map(self, shard: dict[str, Any]) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for ending, (dtype, shape) in shard_arrays(self.header, shard["count"]).items():
            path = self.folder / f"{shard['name']}-{ending}.bin"
            size = np.dtype(dtype).itemsize * prod(shape)
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(
                    f"{path} is missing or damaged: delete {self.folder} and run "
                    f"`d2it encode {self.folder.name}{SETTINGS}`."
                )
            arrays[ending] = np.memmap(path, dtype, "r", shape=shape)
        return arrays

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def grains(self) -> int:
        return len(self.factors)

    def noise_shapes(self) -> list[tuple[int, int, int]]:
        """Shape of the codes of each grain, coarse to fine: what posterior noise must look like."""
        sides = [self.side * self.factors[-1] // factor for factor in self.factors]
        return [(self.channels, side, side) for side in sides]

    def _ratio(self, ratio: Learned) -> dict[str, Any]:
        key = ratio_key(ratio)
        if key not in self.header["ratios"]:
            name, keys = self.folder.name, [*self.header["ratios"], key]
            every = ",".join(f"[{key}]" if "," in key else key for key in keys)
            ratios = shlex.quote(f"runs.dvae.{name}.ratios=[{every}]")
            raise UserError(
                f"{self.folder} was not measured at ratio {key}: run "
                f"`d2it encode {name}{SETTINGS} {ratios}`."
            )
        return self.header["ratios"][key]

    def cuts(self, ratio: Ratio) -> list[float]:
        """Entropies between the grains, ascending; of any ratio, if random ones were measured."""
        if self.quantiles is not None and ratio_key(ratio) not in self.header["ratios"]:
            return cuts_at(self.quantiles, ratio)
        return [float(cut) for cut in self._ratio(ratio)["cuts"]]

    @cached_property
    def quantiles(self) -> np.ndarray | None:
        """The thresholds' table; None where no random ratios were measured."""
        measured = self.header["ratios"].get("random")
        return None if measured is None else np.array(measured["quantiles"])

    def scale(self, ratio: Learned) -> float:
        """1 / standard deviation of the routed, sampled code over the training split."""
        return self._ratio(ratio)["scale"]

    def std(self, ratio: Ratio) -> list[float | None]:
        """Standard deviation of each grain's codes in use; None for a grain that no region has."""
        return self._ratio(ratio)["std"]

    def reached(self, ratio: Learned) -> Ratio:
        """The ratio that the cuts really give on the training split."""
        return self._ratio(ratio)["reached"]

    def fetch(self, indices: np.ndarray) -> Batch:
        """Of n images: "entropy" (n, h, w), "label" (n,), and per grain i, coarse to fine,
        "mean_<i>" and "logvar_<i>" (n, 2 mirrors, C, H_i, W_i) float16."""
        found = {ending: torch.from_numpy(array) for ending, array in self._gather(indices).items()}
        batch = {"entropy": found["entropy"], "label": found["labels"]}
        for grain in range(self.grains):
            moments = found[f"grain{grain}"]
            batch[f"mean_{grain}"], batch[f"logvar_{grain}"] = moments[:, :, 0], moments[:, :, 1]
        return batch

    def _gather(self, indices: np.ndarray, endings: Sequence[str] = ()) -> dict[str, np.ndarray]:
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.split} of {self.folder} has {len(self)} images")
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        gathered = {}
        for ending, (dtype, shape) in shard_arrays(self.header, len(indices)).items():
            if endings and ending not in endings:
                continue
            array = np.empty(shape, dtype)
            for shard in np.unique(shards):
                chosen = shards == shard
                array[chosen] = self._shards[shard][ending][indices[chosen] - self._starts[shard]]
            gathered[ending] = array
        return gathered

    def entropy(self, indices: np.ndarray) -> Tensor:
        """Of the regions of these images, (n, h, w)."""
        return torch.from_numpy(self._gather(indices, ["entropy"])["entropy"])

    def maps(self, ratio: Ratio, indices: np.ndarray, mirrored: Tensor | bool = False) -> Tensor:
        """Grain maps (n, h, w) of these images, or of their mirror images where `mirrored` (n,)."""
        return grain_map(mirror(self.entropy(indices), mirrored), self.cuts(ratio))


def mirror(values: Tensor, mirrored: Tensor | bool) -> Tensor:
    """Left and right exchanged where `mirrored`, (n,) or one for all. values (n, ..., W)."""
    if isinstance(mirrored, bool):
        return values.flip(-1) if mirrored else values
    return torch.where(mirrored.view(-1, *[1] * (values.dim() - 1)), values.flip(-1), values)


def route_sample(
    batch: Batch,
    noises: Sequence[Tensor],
    mirrored: Tensor,
    cuts: Sequence[float | Tensor],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """What the second stage learns from: scaled codes on the finest grid, and their grain map.

    batch: of Latents.fetch; noises: per grain (n, C, H_i, W_i); mirrored (n,) bool; cuts: see
    grain_map
    -> (n, C, H_f, W_f), (n, h, w). The posterior is sampled before neighbour copying, so that a
    coarse region's cells share one code.
    """
    map = grain_map(mirror(batch["entropy"], mirrored), cuts)
    rows, chosen = torch.arange(len(map), device=map.device), mirrored.long()
    codes = [
        draw_code(
            batch[f"mean_{grain}"][rows, chosen].float(),
            batch[f"logvar_{grain}"][rows, chosen].float(),
            noise,
        )
        for grain, noise in enumerate(noises)
    ]
    return route(codes, map) * scale, map


def open_latents(dvae: Run, split: str) -> Latents:
    """The latents of a DVAE run, after checking that it was trained with the settings of now."""
    folder, name = dvae.latents, dvae.name
    latents = Latents.open(folder, split)
    if latents.header["recipe_digest"] != digest(dvae.latents_recipe):
        raise UserError(
            f"{folder} was made with other settings than {name} has now: run "
            f"`d2it train {name}{SETTINGS}` and `d2it encode {name}{SETTINGS}`."
        )
    return latents
