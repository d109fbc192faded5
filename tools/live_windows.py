"""The share of RefineNet's windows that hold a region for it, in the true grain maps of a scale's
training images: results/<scale>/windows.json. Skipping the others gives the same numbers for less.

python -m tools.live_windows scale=mini_cpu    # after `d2it prepare` and `d2it calibrate`
"""

import sys
from typing import Any

import numpy as np
import torch

from d2it.config import load, paths
from d2it.config.recipe import ratio_key
from d2it.config.run import Run, runs_of
from d2it.files import write_format
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import grain_map
from d2it.grains.thresholds import cuts_of
from d2it.images.packed import PackedImages, open_images
from d2it.report.compute import FORMAT, VERSION, measured_for

TOGETHER = 256  # images


def live(map: torch.Tensor, window: int, grain: int) -> torch.Tensor:
    """Which windows of the RefineNet of `grain` hold a region for it. (N, h, w) -> (N, a, b)."""
    side = max(1, window >> grain)  # regions along a window: a region has 2^grain tokens a side
    return map.unfold(1, side, side).unfold(2, side, side).amax(dim=(-1, -2)) >= grain


def measure(run: Run, images: PackedImages) -> dict[str, Any]:
    """Of each RefineNet, coarse to fine."""
    region, config = run.factors[0], run.config
    cuts = cuts_of(config, run.data, region, run.main_ratio)
    found = np.zeros(len(run.factors) - 1)
    for start in range(0, len(images), TOGETHER):
        pixels = torch.from_numpy(images[np.arange(start, min(start + TOGETHER, len(images)))])
        map = grain_map(entropy_map(pixels, region, config.sigma, config.bins), cuts)
        for i in range(len(found)):
            here = live(map, config.model.window, i + 1)
            found[i] += here.double().mean(dim=(1, 2)).sum().item()
    shares = [round(float(share), 6) for share in found / len(images)]
    return measured_for(run) | {"images": len(images), "live": shares}


def main(overrides: list[str]) -> None:
    config = load(overrides=overrides)
    found: dict[str, dict[str, Any]] = {}
    for run in runs_of(config).values():
        if run.kind == "content" and run.grain is not None and ratio_key(run.ratio) != "random":
            key = str(measured_for(run))
            if key not in found:
                found[key] = measure(run, open_images(config, run.data, "train"))
    write_format(paths.windows(config), FORMAT, VERSION, {"measured": list(found.values())})
    print(f"Written: {paths.windows(config)}")


if __name__ == "__main__":
    main(sys.argv[1:])
