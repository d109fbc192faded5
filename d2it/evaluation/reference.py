"""What samples are compared with: Inception features of training images, computed once.

data/<scale>/<data>/reference/
    features.npy          (n, 2048) float32, in the order of the images
    gaussian.safetensors  mean and covariance factor in float64, where n exceeds the dimension
    manifest.json         recipe, digests and sizes
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from d2it.arrays import Share, report
from d2it.config import Config, paths
from d2it.config.recipe import VERSIONS, digest, images_recipe
from d2it.data.images import PackedImages, open_images
from d2it.data.prepare import find_dataset
from d2it.data.sources import find_source
from d2it.device import choose_device
from d2it.errors import UserError
from d2it.evaluation.features import BLOCK, DIMENSIONS, Inception
from d2it.evaluation.metrics import Gaussian
from d2it.files import (
    atomic_folder,
    atomic_path,
    canonical_digest,
    file_digest,
    folder_files,
    read_format,
    require_space,
    write_json,
)

FORMAT, VERSION = "d2it-reference", 1
MANIFOLD = 50_000  # as many as the literature uses
CHUNK = 4 * BLOCK  # images read at once
UNIT = 64 * CHUNK  # images whose features are saved together: what a kill costs at most


@dataclass(frozen=True)
class Reference:
    features: np.ndarray  # (n, 2048) float32
    gaussian: Gaussian
    digest: str  # sha256 of the features' file
    protocol: str

    @property
    def manifold(self) -> np.ndarray:
        """What precision, recall and KID compare with: at most 50,000, evenly spread."""
        return np.array(self.features[:: -(-len(self.features) // MANIFOLD)])

    @classmethod
    def open(cls, folder: Path) -> "Reference":
        manifest = read_manifest(folder)
        for name, entry in manifest["files"].items():
            path = folder / name
            if not path.is_file() or file_digest(path) != entry["sha256"]:
                raise UserError(f"{path} is missing or damaged: {_again(folder)}.")
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        gaussian = Gaussian.of(np.array(features)) if len(features) <= DIMENSIONS else _load(folder)
        sha256 = manifest["files"]["features.npy"]["sha256"]
        return cls(features, gaussian, sha256, manifest["recipe"]["protocol"])


def _save(gaussian: Gaussian, folder: Path) -> None:
    """The factor takes seconds to find: once, not in every evaluation."""
    stored = {
        "n": torch.tensor(gaussian.n),
        "mean": gaussian.mean,
        "factor": gaussian.factor().matrix,
    }
    save_file(stored, folder / "gaussian.safetensors")


def _load(folder: Path) -> Gaussian:
    stored = load_file(folder / "gaussian.safetensors")
    return Gaussian(int(stored["n"]), stored["mean"], stored["factor"], factored=True)


def _again(folder: Path) -> str:
    return f"delete {folder} and run `d2it reference {folder.parent.name}`"


def read_manifest(folder: Path) -> dict[str, Any]:
    made_by = f"d2it reference {folder.parent.name}"
    return read_format(folder / "manifest.json", FORMAT, VERSION, made_by=made_by)


def reference_recipe(config: Config, data: str) -> dict[str, Any]:
    """All that decides the features, known before anything is read."""
    return {
        "stage": "reference",
        "version": VERSIONS["evaluation"],
        "data": data,
        "inputs": {"images": digest(images_recipe(config, data))},
        "images": config.data[data].reference,  # None: all
        "protocol": config.evaluation.protocol,
        "inception_sha256": find_source("inception").sha256,
    }


def open_reference(config: Config, data: str) -> Reference:
    """The reference of `data`, which must be made as this configuration asks."""
    folder = paths.reference(config, data)
    if read_manifest(folder)["recipe"] != reference_recipe(config, data):
        raise UserError(
            f"{folder} was made of other images or settings than {data} has now: "
            f"run `d2it reference {data}`."
        )
    return Reference.open(folder)


def is_current(folder: Path, recipe: dict[str, Any], images_digest: str) -> bool:
    """Whether the folder holds this very reference, whole."""
    try:
        manifest = read_manifest(folder)
        Reference.open(folder)
    except UserError:
        return False
    return bool(manifest["recipe"] == recipe and manifest["images_digest"] == images_digest)


def make_reference(config: Config, data: str, share: Share | None = None) -> bool:
    """Write the reference folder of `data`; False where it is there already.

    With `share` only its units are computed, beside it. A command that was killed goes on.
    """
    find_dataset(config, data)
    folder, recipe = paths.reference(config, data), reference_recipe(config, data)
    images = open_images(config, data, "train")
    if is_current(folder, recipe, images.digest):
        return False
    n = min(len(images), recipe["images"] or len(images))
    if n < 2:
        raise UserError(
            f"A reference needs at least two images, but {data} gives {n}: raise data.{data}.train."
        )
    spans = [range(start, min(start + UNIT, n)) for start in range(0, n, UNIT)]
    key = canonical_digest([recipe, images.digest])[:8]
    parts = folder.with_name(f".{folder.name}.{key}.parts")
    require_space(folder, 2 * 4 * n * DIMENSIONS + 8 * DIMENSIONS**2)
    own = spans if share is None else share.take(spans)
    compute_features(config, images, own, parts, f"reference {data}")
    if share is not None:
        return True
    with atomic_folder(folder) as temporary:
        path = temporary / "features.npy"
        features = np.lib.format.open_memmap(path, "w+", np.float32, (n, DIMENSIONS))
        for span in spans:
            features[span.start : span.stop] = np.load(part_of(parts, span), allow_pickle=False)
        features.flush()
        if n > DIMENSIONS:
            _save(Gaussian.of(features), temporary)
        header = {"format": FORMAT, "version": VERSION, "recipe": recipe, "n": n}
        header |= {"images_digest": images.digest, "files": folder_files(temporary)}
        write_json(temporary / "manifest.json", header)
    shutil.rmtree(parts)
    return True


def part_of(parts: Path, span: range) -> Path:
    return parts / f"{span.start:08d}-{span.stop:08d}.npy"


def compute_features(
    config: Config, images: PackedImages, spans: Sequence[range], parts: Path, name: str
) -> None:
    """Write the features of each of these units that is not there."""
    extractor = Inception(config.evaluation.protocol, choose_device())
    total = sum(len(span) for span in spans)
    with tqdm(total=total, unit="image", desc=name, disable=None) as bar:
        for span in spans:
            path = part_of(parts, span)
            if not path.exists():
                chunks = [np.array(span[i : i + CHUNK]) for i in range(0, len(span), CHUNK)]
                found = np.concatenate([extractor(images[chunk]) for chunk in chunks])
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    np.save(file, found)
            bar.update(len(span))
            report(len(span))
