"""Entropy of regions from grey-level histograms, beside the kernel density as Eq 2 is written.

    python -m benchmarks.calibration [--device cuda]

Embedded photographs at 256 px in regions of 16: Eq 2 takes 256 exponentials a pixel.
"""

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import arguments, interleaved, timed, write
from d2it.grains.calibrate import count
from d2it.grains.entropy import LEVELS, entropy_map, grey_levels
from d2it.images.photos import read_photo
from d2it.sources.table import read_sources

SIDE, REGION, SIGMA, BINS = 256, 16, 0.01, 256
IMAGES, DIRECT = 64, 14  # a block of d2it calibrate; the direct way is timed on fewer


def photographs(count: int) -> Tensor:
    names = [row.name for row in read_sources().values() if row.group == "photos"]
    chosen = (read_photo(names[i % len(names)]).resize((SIDE, SIDE)) for i in range(count))
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in chosen]))


def direct(images: Tensor) -> Tensor:
    """Eq 2 and 3 as they stand: every pixel of a region against every bin."""
    grey = grey_levels(images).double() / (LEVELS - 1) * 2 - 1
    centres = torch.linspace(-1, 1, BINS, dtype=torch.float64, device=images.device)
    regions = grey.unfold(1, REGION, REGION).unfold(2, REGION, REGION).flatten(3)  # (N, h, w, S^2)
    found = []
    for row in regions.flatten(0, 1):
        density = torch.exp(-0.5 * ((row[..., None] - centres) / SIGMA) ** 2).sum(1)
        p = density / density.sum(1, keepdim=True)
        found.append(-torch.xlogy(p, p).sum(1))
    return torch.stack(found).view(regions.shape[:3]).float()


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    many = photographs(IMAGES).to(given.device)
    few, top = many[:DIRECT], float(np.log(BINS))
    assert torch.allclose(direct(few), entropy_map(few, REGION), atol=1e-5)
    calls = {
        "d2it calibrate": lambda: count(entropy_map(many, REGION).cpu().numpy(), top),
        "direct kernel density": lambda: direct(few),
    }
    found = {name: timed(r) for name, r in interleaved(calls, given.repeats, given.device).items()}
    images = {name: DIRECT if "direct" in name else IMAGES for name in found}
    rate = {name: images[name] / row["seconds"] for name, row in found.items()}
    rows = [
        {
            "what": name,
            "images": images[name],
            "images_per_second": round(rate[name], 2),
            "over_direct": round(rate[name] / rate["direct kernel density"], 1),
            **row,
        }
        for name, row in found.items()
    ]
    write("calibration", given.device, {"side": SIDE, "region": REGION, "bins": BINS}, rows)


if __name__ == "__main__":
    main()
