"""Encode a data set with a trained DVAE, and measure the latents at the ratios asked for."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2it.clock import seed_of
from d2it.config import paths
from d2it.config.documents import conform
from d2it.config.ratios import at_least
from d2it.config.recipe import digest, ratio_key
from d2it.config.run import Run
from d2it.config.types import Learned, Ratio
from d2it.errors import SETTINGS, UserError
from d2it.files import (
    atomic_path,
    folder_files,
    read_sealed,
    remove_folder,
    require_space,
    write_json,
    write_sealed,
)
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import grain_map, per_image
from d2it.grains.mixture import random_shares
from d2it.grains.thresholds import cuts_at, cuts_of, thresholds_of
from d2it.images.packed import open_images
from d2it.latents.cache import FORMAT, MIRRORS, VERSION, Latents, Manifest, shard_arrays
from d2it.machine.device import choose_device
from d2it.models.dvae import to_network
from d2it.models.store import load_model, trained
from d2it.shares import Share
from d2it.units import Advance, Arrays, Unit, Units, divide

SPLITS = ("train", "test")
BLOCK = 32  # images encoded together; shards end where blocks do
SHARD = 2**14  # images in one set of files: 41 KB each at 256 px, 0.7 GB
MEASURED = 256  # images whose moments are summed at a time
TOLERANCE = 0.01  # how far a reached ratio may be from the one asked for without a warning

Header = dict[str, Any]
Rule = dict[str, Any]
Shard = dict[str, Any]


def encode(dvae: Run, share: Share | None = None) -> bool:
    """Cache the latents of `dvae`'s data set; False if nothing was missing.

    With `share` only its shards are written, and neither measured nor put together.
    Finished shards are kept when it is interrupted; with the same weights only ratios are added.
    """
    folder, header = dvae.latents, identity(dvae)
    known = _same(folder / "manifest.json", header)
    wanted = {ratio_key(ratio): ratio for ratio in dvae.spec.ratios}
    rules = {  # before anything slow: thresholds may be missing
        key: rule_of(dvae, ratio)
        for key, ratio in wanted.items()
        if known is None or key not in known["ratios"]
    }
    encoding = None if known else Encoding(dvae, header)
    if encoding:
        if share is None:  # a late share finds what all together have made meanwhile
            remove_folder(folder)  # of other weights
        encoding.write(share)
    if share is not None:
        return encoding is not None
    made = encoding.folder if encoding else folder
    header = encoding.listed() if encoding else known or {}
    latents = Latents(made, "train", header)
    if known and not rules:
        return False
    measured = measure(latents, rules)
    for key, numbers in measured.items():
        _compare(key, wanted[key], numbers["reached"], folder)
    write_sealed(made / "manifest.json", header | {"ratios": header["ratios"] | measured})
    if encoding:
        os.replace(made, folder)
        seconds = encoding.units.seconds()
        encoding.units.remove()
        if dvae.folder.is_dir():  # it was trained here; else this folder would look like a run
            with suppress(OSError):
                write_json(paths.took(dvae.folder / "latents"), {"seconds": round(seconds, 3)})
    return True


def rule_of(dvae: Run, ratio: Learned) -> Rule:
    """What gives the grain maps of a ratio, as the manifest says it: cuts, or of random ratios the
    whole table of quantiles, which then gives those of any other ratio too.
    """
    config, data, region = dvae.config, dvae.data, dvae.factors[0]
    if isinstance(ratio, str):
        return {"quantiles": list(thresholds_of(config, data, region).quantiles)}
    # JSON knows no infinity: those of constant maps are written as words
    cuts = cuts_of(config, data, region, ratio)
    return {"cuts": [cut if math.isfinite(cut) else str(cut) for cut in cuts]}


def identity(dvae: Run) -> Header:
    """All that decides the moments, once recipe, weights and images are seen to belong together."""
    model, name = trained(dvae), dvae.name
    images = open_images(dvae.config, dvae.data, "train")
    if model["inputs"].get("images") != images.digest:
        raise UserError(
            f"{name} was trained on other images than those in {images.folder}: "
            f"run `d2it train {name}{SETTINGS}` again."
        )
    recipe, shape = dvae.latents_recipe, model["architecture"]
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe,
        "recipe_digest": digest(recipe),
        "dvae_digest": model["files"]["model.safetensors"]["sha256"],
        "images_digest": images.digest,
        "factors": shape["factors"],
        "channels": shape["latent_channels"],
        "side": shape["size"] // shape["factors"][-1],
        "classes": len(images.classes),
    }


def _same(path: Path, header: Header) -> Header | None:
    """The JSON at `path` if it is of these very latents."""
    if not path.exists():
        return None
    made_by = f"d2it encode {path.parent.name}"
    found = read_sealed(path, made_by=made_by)
    if any(found.get(key) != header[key] for key in header):
        return None
    conform(Manifest, found, path, made_by)
    return found


class Encoding:
    """Writes the shards of one DVAE's latents; each is a unit."""

    def __init__(self, dvae: Run, header: Header) -> None:
        self.header, self.name, config = header, dvae.name, dvae.config
        self.kernel = config.kernel
        self.splits = {split: open_images(config, dvae.data, split) for split in SPLITS}
        spans = [divide(split, range(len(images)), SHARD) for split, images in self.splits.items()]
        self.units = Units(dvae.latents, header, list(chain.from_iterable(spans)), self._files)
        self.folder = self.units.folder / dvae.name  # takes the place of the latents at the end
        self.device = choose_device()
        self.network: nn.Module = load_model(dvae.model).to(self.device)

    def write(self, share: Share | None = None) -> None:
        counts = [len(unit.span) for unit in self.units.missing()]
        each = [entry for count in counts for entry in shard_arrays(self.header, count).values()]
        require_space(self.units.folder, sum(_bytes(*entry) for entry in each))
        self.units.compute(self._shard, self.device, f"encode {self.name}", share)

    def listed(self) -> Header:
        """The header of all latents, without ratios."""
        self.units.devices(f"Latents of {self.name}")
        for stale in self.folder.glob(".*.part"):
            stale.unlink()
        splits = {
            split: {
                "count": len(images),
                "shards": [shard_of(unit) for unit in self.units.all if unit.series == split],
            }
            for split, images in self.splits.items()
        }
        return self.header | {"splits": splits, "files": folder_files(self.folder), "ratios": {}}

    def _files(self, unit: Unit) -> list[Path]:
        """A shard's."""
        shard = shard_of(unit)
        endings = shard_arrays(self.header, shard["count"])
        return [self.folder / f"{shard['name']}-{ending}.bin" for ending in endings]

    def _shard(self, unit: Unit, advance: Advance) -> Arrays:
        """Its files are the shard's; what the unit's own keeps is the device."""
        images, first, region = self.splits[unit.series], unit.span.start, self.header["factors"][0]
        with self._writing(shard_of(unit)) as arrays:
            arrays["labels"][:] = images.labels[first : unit.span.stop]
            for start in range(first, unit.span.stop, BLOCK):
                indices = np.arange(start, min(start + BLOCK, unit.span.stop))
                block = slice(start - first, start - first + len(indices))
                pixels = torch.from_numpy(images[indices]).to(self.device)
                arrays["entropy"][block] = entropy_map(pixels, region, *self.kernel).cpu()
                for mirrored in range(MIRRORS):
                    for grain, moments in enumerate(self._moments(pixels, bool(mirrored))):
                        arrays[f"grain{grain}"][block, mirrored] = moments.cpu()
                advance(len(indices))
        return {}

    @torch.no_grad()
    def _moments(self, pixels: Tensor, mirrored: bool) -> list[Tensor]:
        """Per grain, (n, 2, C, H_i, W_i) float16."""
        x = to_network(pixels)
        found = self.network.encode(x.flip(-1) if mirrored else x)  # type: ignore[operator]
        return [torch.stack(moments, dim=1).half() for moments in found]

    @contextmanager
    def _writing(self, shard: Shard) -> Iterator[dict[str, np.memmap]]:
        """Memory-mapped files under temporary names, renamed when the block has succeeded."""
        with ExitStack() as stack:
            arrays = {}
            for ending, (dtype, shape) in shard_arrays(self.header, shard["count"]).items():
                path = stack.enter_context(
                    atomic_path(self.folder / f"{shard['name']}-{ending}.bin")
                )
                size = _bytes(dtype, shape)
                with open(path, "wb") as file:  # a disk that fills up is an error here; mapped, a
                    os.posix_fallocate(file.fileno(), 0, size)  # hole that has no room kills us
                arrays[ending] = np.memmap(path, dtype, "r+", shape=shape)
            yield arrays
            for array in arrays.values():
                array.flush()


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def shard_of(unit: Unit) -> Shard:
    return {"name": f"{unit.series}-{unit.span.start // SHARD:05d}", "count": len(unit.span)}


def measure(latents: Latents, rules: dict[str, Rule]) -> dict[str, Any]:
    """Per ratio: its rule, the ratio reached, the scale of the routed code, each grain's deviation.

    In closed form over the posterior, Var z = E[mean^2] + E[var] - E[mean]^2, over both mirrors; a
    coarse code counts as often as it is copied.
    """
    k = latents.grains
    sums = {key: torch.zeros(3, k, dtype=torch.float64) for key in rules}  # codes, z, z^2
    for start in range(0, len(latents), MEASURED):
        batch = latents.fetch(np.arange(start, min(start + MEASURED, len(latents))))
        regions = [
            _region_sums(batch[f"mean_{grain}"], batch[f"logvar_{grain}"], 2**grain)
            for grain in range(k)
        ]
        for key, rule in rules.items():
            map = grain_map(batch["entropy"], _cuts(rule, k, start, len(batch["entropy"])))
            for grain, values in enumerate(regions):
                sums[key][:, grain] += values[:, map == grain].sum(1)
    return {key: rule | _numbers(sums[key], latents) for key, rule in rules.items()}


def _cuts(rule: Rule, grains: int, start: int, n: int) -> Sequence[float | Tensor]:
    """Of n images from `start` on; random ones are drawn once for each image."""
    if "cuts" in rule:
        return [float(cut) for cut in rule["cuts"]]
    generator = torch.Generator().manual_seed(seed_of("ratios", start))
    table = np.array(rule["quantiles"])
    drawn = [cuts_at(table, shares) for shares in random_shares(generator, n, grains - 1)]
    return per_image(torch.tensor(drawn))


def _region_sums(mean: Tensor, logvar: Tensor, cells: int) -> Tensor:
    """Number, sum and sum of squares of the codes drawn in each region: (3, n, h, w) float64.

    mean, logvar (n, 2 mirrors, C, h cells, w cells); mirror 1 is turned back first.
    """
    mean, logvar = mean.double(), logvar.double()
    each = torch.stack([torch.ones_like(mean), mean, mean**2 + logvar.exp()])
    each = each[:, :, 0] + each[:, :, 1].flip(-1)
    summed: Tensor = each.sum(2).unfold(2, cells, cells).unfold(3, cells, cells).sum((-2, -1))
    return summed


def _numbers(sums: Tensor, latents: Latents) -> dict[str, Any]:
    """What the manifest says of one ratio. sums (3, k): number, sum and sum of squares of codes."""
    k = latents.grains
    regions = sums[0] / (MIRRORS * latents.channels * 4.0 ** torch.arange(k))
    shares = (regions / regions.sum())[1:].tolist()
    copies = 4.0 ** torch.arange(k - 1, -1, -1)
    routed = (sums * copies).sum(1)
    return {
        "reached": shares[0] if k == 2 else shares,
        "scale": 1 / _deviation(routed),
        "std": [_deviation(one) if one[0] > 0 else None for one in sums.unbind(1)],
    }


def _deviation(sums: Tensor) -> float:
    number, first, second = sums.tolist()
    return math.sqrt(second / number - (first / number) ** 2)


def _compare(key: str, wanted: Learned, reached: Ratio, folder: Path) -> None:
    if isinstance(wanted, str):
        return
    pairs = zip(at_least(wanted), at_least(reached), strict=True)
    if any(abs(a - b) > TOLERANCE for a, b in pairs):
        warnings.warn(
            f"{folder}: ratio {key} was asked for, but the thresholds give {ratio_key(reached)} "
            "on the training images.",
            stacklevel=3,
        )
