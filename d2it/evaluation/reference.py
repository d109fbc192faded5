"""What samples are compared with: Inception features of training images, computed once.

data/<scale>/<data>/reference/, and data/references/<digest>/ of anybody's images
    features.npy          (n, 2048) float32, in the order of the images
    gaussian.safetensors  mean and covariance factor in float64, where n exceeds the dimension
    spatial.safetensors   the same of the spatial features, where sFID is asked for
    manifest.json         recipe, digests and sizes
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from d2it.config import Config, paths
from d2it.config.documents import conform
from d2it.config.protocols import MANIFOLD, asked
from d2it.config.recipe import VERSIONS, digest, images_recipe
from d2it.errors import SETTINGS, UserError
from d2it.evaluation.image_sets import Pictures, open_pictures, spell_side
from d2it.evaluation.metrics import Gaussian
from d2it.files import (
    File,
    atomic_folder,
    canonical_digest,
    file_digest,
    folder_files,
    read_format,
    require_space,
    save_by_umask,
    write_format,
)
from d2it.images.packed import PackedImages, open_images
from d2it.images.prepare import find_dataset
from d2it.machine.device import choose_device
from d2it.models.inception import BLOCK, DIMENSIONS, SPATIAL, Inception
from d2it.runs.lease import making
from d2it.shares import Share
from d2it.sources.fetch import weights_file
from d2it.sources.table import find_source
from d2it.units import Advance, Arrays, Unit, Units, divide, joined

FORMAT, VERSION = "d2it-reference", 1
CHUNK = 8 * BLOCK  # images read at once
UNIT = 256 * BLOCK  # images whose features are saved together: what a kill costs at most
CACHE = Path("data/references")


class Manifest(TypedDict):
    """What is read of manifest.json."""

    recipe: dict[str, Any]
    images_digest: str
    files: dict[str, File]


@dataclass(frozen=True)
class Reference:
    features: np.ndarray  # (n, 2048) float32
    gaussian: Gaussian
    digest: str  # sha256 of the features' file
    protocol: str
    spatial: Gaussian | None = None  # where sFID was asked for

    @property
    def manifold(self) -> np.ndarray:
        """What precision, recall and KID compare with: at most MANIFOLD images, evenly spread."""
        return np.array(self.features[:: -(-len(self.features) // MANIFOLD[self.protocol])])

    @classmethod
    def open(cls, folder: Path) -> "Reference":
        manifest = read_manifest(folder)
        files = manifest["files"]
        for name, entry in files.items():
            path = folder / name
            if not path.is_file() or file_digest(path) != entry["sha256"]:
                raise UserError(f"{path} is missing or damaged: {_again(folder)}.")
        if "features.npy" not in files:
            raise UserError(f"{folder} holds no features: {_again(folder)}.")
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        if features.dtype != np.float32 or features.shape[1:] != (DIMENSIONS,):
            held = f"{features.shape} of {features.dtype}, not {DIMENSIONS} features an image"
            raise UserError(f"{folder / 'features.npy'} holds {held}: {_again(folder)}.")
        stored = {name: _load(folder / name) for name in files if name.endswith(".safetensors")}
        return cls(
            features,
            stored.get("gaussian.safetensors") or Gaussian.of(np.array(features), choose_device()),
            files["features.npy"]["sha256"],
            manifest["recipe"]["protocol"],
            stored.get("spatial.safetensors"),
        )


def _save(gaussian: Gaussian, path: Path) -> None:
    """The factor takes seconds to find: once, not in every evaluation."""
    stored = {
        "n": torch.tensor(gaussian.n),
        "mean": gaussian.mean.cpu(),
        "factor": gaussian.factor().matrix.cpu(),
    }
    save_by_umask(save_file, stored, path)


def _load(path: Path) -> Gaussian:
    stored = load_file(path)
    return Gaussian(int(stored["n"]), stored["mean"], stored["factor"], factored=True)


def _again(folder: Path) -> str:
    return f"delete {folder} and run `d2it reference {folder.parent.name}{SETTINGS}`"


def read_manifest(folder: Path) -> dict[str, Any]:
    path, made_by = folder / "manifest.json", f"d2it reference {folder.parent.name}"
    header = read_format(path, FORMAT, VERSION, made_by=made_by)
    conform(Manifest, header, path, made_by)
    return header


def reference_recipe(config: Config, data: str) -> dict[str, Any]:
    """All that decides the features, known before anything is read."""
    source = config.data[data].reference
    recipe = _recipe(config.data[data].protocol, "sfid" in asked(config, data))
    return recipe | {
        "data": data,
        "inputs": {"images": digest(images_recipe(config, data))},
        "images": f"sha256 {find_source(source).sha256}" if isinstance(source, str) else source,
    }


def _recipe(protocol: str, spatial: bool) -> dict[str, Any]:
    recipe = {
        "stage": "reference",
        "version": VERSIONS["evaluation"],
        "protocol": protocol,
        "inception_sha256": find_source("inception").sha256,
    }
    return recipe | ({"spatial": True} if spatial else {})


def open_reference(config: Config, data: str) -> Reference:
    """The reference of `data`, which must be made as this configuration asks."""
    folder = paths.reference(config, data)
    if read_manifest(folder)["recipe"] != reference_recipe(config, data):
        raise UserError(
            f"{folder} was made of other images or settings than {data} has now: "
            f"run `d2it reference {data}{SETTINGS}`."
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
    pictures = _pictures(config, data)
    if is_current(folder, recipe, pictures.digest):
        return False
    write_reference(folder, recipe, pictures, share)
    return True


def _pictures(config: Config, data: str) -> Pictures:
    """The training images of `data`, or the reference batch that stands for them."""
    source, size = config.data[data].reference, config.data[data].size
    if isinstance(source, str):
        batch = open_pictures(weights_file(source))
        if batch.side != (size, size):
            raise UserError(
                f"{batch.name} holds images of {spell_side(batch.side)}, but {data} has {size} px: "
                f"name another batch in data.{data}.reference, or set it to null."
            )
        return batch
    images = open_images(config, data, "train")
    n = min(len(images), source or len(images))
    if n < 2:
        raise UserError(
            f"A reference needs at least two images, but {data} gives {n}: raise data.{data}.train."
        )
    return _packed(data, images, n)


def pictures_of(config: Config, data: str) -> Pictures:
    """What the reference of `data` is made of, for another protocol than the data set's own."""
    source, protocol = config.data[data].reference, config.data[data].protocol
    if isinstance(source, str):  # its statistics are of that protocol
        raise UserError(
            f"The reference of {data} is {source}, of protocol {protocol}: leave --protocol out, "
            f"or set data.{data}.reference=null, for the training images."
        )
    pictures = _pictures(config, data)
    own = canonical_digest([pictures.digest, "train", pictures.n])  # its digest is of all images
    return replace(pictures, digest=own)


def _packed(name: str, images: PackedImages, n: int) -> Pictures:
    """The first n of a data set's packed images."""
    side = (images.size, images.size)
    return Pictures(name, n, lambda i, j: images[np.arange(i, min(j, n))], images.digest, side)


def held_out_features(config: Config, data: str, n: int) -> np.ndarray:
    """(n or fewer, 2048) features of images held out of training, computed once for all runs."""
    images = open_images(config, data, "test")
    n = min(n, len(images))
    if n < 2:
        raise UserError(
            f"The metric nearest needs held-out images, but {data} has {n}: raise data.{data}.test "
            "or leave it out of evaluation.metrics."
        )
    own = canonical_digest([images.digest, "test", n])  # the images' digest is of both splits
    pictures = replace(_packed(f"{data}, held out", images, n), digest=own)
    return cached_reference(pictures, config.data[data].protocol, False).features


def cached_reference(pictures: Pictures, protocol: str, spatial: bool) -> Reference:
    """The reference of anybody's images, computed once for the same content."""
    recipe = _recipe(protocol, spatial) | {"images": pictures.digest}
    folder = CACHE / digest(recipe)[:16]
    with making(folder, wait=True):
        if not is_current(folder, recipe, pictures.digest):
            write_reference(folder, recipe, pictures)
        return Reference.open(folder)


def write_reference(
    folder: Path, recipe: dict[str, Any], pictures: Pictures, share: Share | None = None
) -> None:
    """Compute what is missing of the units, and put them together."""
    n, given = pictures.n, pictures.gaussians or {}
    widths = {"features": DIMENSIONS} | ({"spatial": SPATIAL} if recipe.get("spatial") else {})
    units = Units(folder, [recipe, pictures.digest], divide("images", range(n), UNIT))
    require_space(folder, sum(2 * 4 * n * width + 8 * width**2 for width in widths.values()))
    device = choose_device()
    extractor = Inception(recipe["protocol"], device)

    def one(unit: Unit, advance: Advance) -> Arrays:
        chunks = []
        for start in range(unit.span.start, unit.span.stop, CHUNK):
            images = pictures.read(start, min(start + CHUNK, unit.span.stop))
            found = extractor.both(images)
            chunks.append({kind: found[kind] for kind in widths})
            advance(len(images))
        return joined(chunks)

    units.compute(one, device, f"reference {pictures.name}", share)
    if share is not None:
        return
    units.devices(f"Reference of {pictures.name}")
    with atomic_folder(folder) as temporary:
        whole = {
            what: np.lib.format.open_memmap(temporary / f"{what}.npy", "w+", np.float32, (n, width))
            for what, width in widths.items()
        }
        for unit in units.all:
            found = units.load(unit)
            for what, array in whole.items():
                array[unit.span.start : unit.span.stop] = found[what]
        whole["features"].flush()
        if n > DIMENSIONS or "features" in given:
            gaussian = given.get("features") or Gaussian.of(whole["features"], choose_device())
            _save(gaussian, temporary / "gaussian.safetensors")
        if "spatial" in whole:  # sFID needs no more of them
            gaussian = given.get("spatial") or Gaussian.of(whole.pop("spatial"), choose_device())
            _save(gaussian, temporary / "spatial.safetensors")
            (temporary / "spatial.npy").unlink()
        header = {"recipe": recipe, "n": n, "images_digest": pictures.digest}
        header |= {"files": folder_files(temporary)}
        write_format(temporary / "manifest.json", FORMAT, VERSION, header)
    units.remove()
