"""d2it grains PHOTO: show the grain map of any photograph."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from d2it.commands.options import ratio_of
from d2it.config.check import check_ratio
from d2it.errors import UserError
from d2it.files import atomic_path
from d2it.grains.overlay import beside, overlay
from d2it.images.decode import centre_crop, read_rgb, reason


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: d2it grains cat.jpg --ratio 0.5 --ratio 0.7 --out cat-grains.png"
    parser.add_argument("photo", metavar="PHOTO", type=Path, help="any image file")
    parser.add_argument(
        "--ratio",
        action="append",
        type=ratio_of,
        metavar="R",
        help="share of fine regions, or shares of the finer grains, e.g. 0.3,0.2; repeat for more "
        "pictures (default: 0.5)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PNG",
        help="where to draw the photograph and its maps, red fine and blue coarse "
        "(default: PHOTO's name with -grains.png, here)",
    )
    parser.add_argument("--json", action="store_true", help="print the maps; draw only with --out")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: 256)")
    parser.add_argument(
        "--factors",
        type=int,
        nargs="+",
        default=[16, 8],
        metavar="F",
        help="downsampling factors, coarse to fine (default: 16 8)",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="thresholds.json of a data set (default: quantiles of this photograph's own regions, "
        "so that it has exactly the ratio)",
    )


def main(arguments: argparse.Namespace) -> None:
    import torch

    from d2it.grains.entropy import entropy_map
    from d2it.grains.maps import fine_share, grain_map
    from d2it.grains.thresholds import Thresholds

    factors, ratios = arguments.factors, arguments.ratio or [0.5]
    check_factors(factors, arguments.size)
    for ratio in ratios:
        check_ratio(ratio, len(factors), "--ratio")
    pixels = read_photo(arguments.photo, arguments.size)
    entropy = entropy_map(torch.from_numpy(pixels)[None], factors[0])
    if arguments.thresholds:
        if not arguments.thresholds.is_file():
            raise UserError(
                f"There is no file {arguments.thresholds}: name the thresholds.json of a data set."
            )
        thresholds = Thresholds.load(arguments.thresholds, region=factors[0])
    else:
        thresholds = Thresholds.of_entropy(entropy.numpy(), str(arguments.photo), factors[0])
    maps = [grain_map(entropy, thresholds.cut(ratio)) for ratio in ratios]
    if arguments.json:
        found = [
            {"ratio": ratio, "fine_share": fine_share(map, len(factors)), "map": map[0].tolist()}
            for ratio, map in zip(ratios, maps, strict=True)
        ]
        print(json.dumps({"photo": str(arguments.photo), "region": factors[0], "maps": found}))
    if arguments.out or not arguments.json:
        pictures = [overlay(pixels, map[0].numpy(), len(factors)) for map in maps]
        out = arguments.out or Path(f"{arguments.photo.stem}-grains.png")
        write_png(out, beside([pixels, *pictures]))
    if not arguments.json:
        for ratio, map in zip(ratios, maps, strict=True):
            print(f"ratio {ratio}: {fine_share(map, len(factors)):.1%} of the regions are fine")
        print(f"{out} is ready.")


def check_factors(factors: list[int], size: int) -> None:
    if len(factors) < 2 or any(a != 2 * b for a, b in pairwise(factors)) or factors[-1] < 1:
        raise UserError(f"--factors is {factors}, but must halve from coarse to fine, as 16 8.")
    if size < factors[0] or size % factors[0]:
        raise UserError(f"--size is {size}, but must be a multiple of the region of {factors[0]}.")


def read_photo(path: Path, size: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"There is no file {path}: name a photograph.")
    try:
        return np.array(centre_crop(read_rgb(path), size))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image ({reason(error)}).") from None


def write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
