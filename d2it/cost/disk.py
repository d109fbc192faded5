"""What runs take on the disk: bytes, and files for a file system that counts them."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2it.config import paths
from d2it.config.run import Run
from d2it.cost.macs import discriminator
from d2it.models.architecture import discriminator_shape


@dataclass(frozen=True)
class Disk:
    bytes: float = 0.0
    files: int = 0

    def __add__(self, other: "Disk") -> "Disk":
        return Disk(self.bytes + other.bytes, self.files + other.files)


def latents_disk(shape: dict[str, Any], images: tuple[int, int], shard: int = 2**14) -> Disk:
    """Moments of every grain and both mirrors in float16, entropies, labels (docs/formats.md)."""
    sides = [shape["size"] // factor for factor in shape["factors"]]
    codes = 2 * 2 * shape["latent_channels"] * sum(side**2 for side in sides)
    each = 2 * codes + 4 * sides[0] ** 2 + 8
    files = sum(math.ceil(count / shard) for count in images) * (len(sides) + 2) + 1
    return Disk(each * sum(images), files)


def states(run: Run, count: dict[str, int]) -> dict[str, Disk]:
    """The run folder, while a third state is written beside the two that are kept; the model."""
    training, end = run.training, run.images
    marks, widths = len(run.milestones), len(run.widths)
    every = training.snapshot_images
    snapshots, power = (end // every, 8 * count["trainable"]) if every else (0, 0)
    weights = 4 * count["total"]
    # averaged, raw, two moments of AdamW, perhaps two power averages; a discriminator with its own
    critic = 0
    if run.kind == "dvae":
        layers = discriminator(**discriminator_shape(run.config), size=run.dataset.size)
        critic = sum(layer.trainable for layer in layers)
    state = 2 * weights + 8 * count["trainable"] + power + 12 * critic
    log = 300 * (end // training.log_images) if training.log_images else 300 * end // training.batch
    return {
        "states": Disk(
            3 * state + marks * weights + snapshots * (weights + power) + 2 * log,
            3 * (5 if every else 4) + 2 * marks + 3 * snapshots + 10,
        ),
        "models": Disk((2 + marks + widths) * weights, 4 + marks + widths),
    }


def no_space(total: Mapping[str, Disk]) -> list[str]:
    """A sentence for the working directory's disk, and one for that of runs/, if they are full."""
    wanted = {paths.runs_folder(): 0.0, Path(): 0.0}
    for use, disk in total.items():
        wanted[paths.runs_folder() if use in ("states", "samples") else Path()] += disk.bytes
    by_disk: dict[int, tuple[Path, float]] = {}
    for path, size in wanted.items():
        there = next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
        before = by_disk.get(there.stat().st_dev, (there, 0.0))
        by_disk[there.stat().st_dev] = (there, before[1] + size)
    return [
        f"{path} has {free / 1e9:.0f} GB free, and {size / 1e9:.0f} GB are needed there: free "
        "some, or move runs/ with D2IT_RUNS."
        for path, size in by_disk.values()
        if (free := shutil.disk_usage(path).free) < size
    ]
