"""FID, KID, precision and recall between any two folders of images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2it.data.folder import list_images, read_rgb, reason
from d2it.device import choose_device
from d2it.errors import UserError
from d2it.evaluation.features import BLOCK, DIMENSIONS, Inception
from d2it.evaluation.judge import compare, rank_deficient
from d2it.evaluation.metrics import Gaussian
from d2it.evaluation.reference import Reference

NEIGHBOURS = 3  # of precision and recall, as in their paper
METRICS = ("fid", "kid", "precision", "recall")


def compare_folders(
    images: Path | str, reference: Path | str, protocol: str = "clean", n: int | None = None
) -> dict[str, Any]:
    """{"metrics": …, "recipe": …} of the images below one folder against those below another.

    `n` is how many images the protocol asks for: the first ones by name; fewer are an error.
    """
    ours, theirs = list_images(_folder(images)), list_images(_folder(reference))
    if n is not None and len(ours) < n:
        raise UserError(
            f"{images} holds {len(ours)} images, but --n asks for {n}: add some, or lower it."
        )
    ours = ours[:n]
    for folder, files in ((images, ours), (reference, theirs)):
        if len(files) < 2:
            raise UserError(
                f"{folder} holds {len(files)} image, but a distance needs at least two images: "
                "add some."
            )
    extractor = Inception(protocol, choose_device())
    features, others = (_features(extractor, files) for files in (ours, theirs))
    names = METRICS if min(len(ours), len(theirs)) > NEIGHBOURS else METRICS[:2]
    recipe = {
        "protocol": protocol,
        "n": len(ours),
        "reference_n": len(theirs),
        "neighbours": NEIGHBOURS,
        "inception_sha256": extractor.sha256,
        "rank_deficient": rank_deficient(len(ours), len(theirs)),
    }
    known = Reference(others, Gaussian.of(others), digest="", protocol=protocol)
    return {"metrics": compare(names, features, known, NEIGHBOURS), "recipe": recipe}


def _folder(folder: Path | str) -> Path:
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder of images: name one that exists.")
    return Path(folder)


def _features(extractor: Inception, files: list[Path]) -> np.ndarray:
    blocks = [np.empty((0, DIMENSIONS), np.float32)]
    with tqdm(total=len(files), unit="image", desc=str(files[0].parent), disable=None) as bar:
        for start in range(0, len(files), BLOCK):
            pictures = [_read(file) for file in files[start : start + BLOCK]]
            blocks.append(extractor(pictures))
            bar.update(len(pictures))
    return np.concatenate(blocks)


def _read(file: Path) -> np.ndarray:
    try:
        return np.asarray(read_rgb(file))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file} cannot be read ({reason(error)}): mend or remove it.") from None


def show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1, sort_keys=True, allow_nan=False))
        return
    recipe = found["recipe"]
    for name, value in found["metrics"].items():
        print(f"{name:9} {value:.6g}")
    print(f"protocol {recipe['protocol']}, {recipe['n']} images against {recipe['reference_n']}")
    if recipe["rank_deficient"]:
        print(f"fewer than {DIMENSIONS + 1} images: compare FIDs at equal numbers only")
