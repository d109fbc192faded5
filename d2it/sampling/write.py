"""Samples as files: any images of a seed, in units that resume and that processes share.

FOLDER/
    samples.json   what was asked for, and sha256 of each file
    maps.npy       (n, h, w) int64 grain maps, 0 coarse; labels.npy (n,) int64
    grid.png       the first 64; overlay.png: each beside its map, red fine, blue coarse
    and, as asked for, <index>.png, images.npy, samples.npz or features.npy
"""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from PIL import Image

from d2it.config.documents import conform
from d2it.config.recipe import sampling_recipe
from d2it.errors import UserError
from d2it.files import (
    File,
    atomic_folder,
    atomic_path,
    file_digest,
    folder_files,
    read_format,
    require_space,
    write_format,
)
from d2it.grains.overlay import SHEETS, beside, grid, overlay
from d2it.images.decode import open_image, reason
from d2it.models.inception import BLOCK, DIMENSIONS, Inception
from d2it.sampling.pipeline import Drawn, Label, Pipeline
from d2it.shares import Share
from d2it.units import Advance, Arrays, Unit, Units, divide, joined

FORMAT, VERSION = "d2it-samples", 1
UNIT = 256  # images drawn into one file: what a kill costs at most
SHOWN = 64  # in grid.png and overlay.png
Form = Literal["png", "packed", "npz", "features"]


class Header(TypedDict):
    """samples.json, beside its format and version."""

    recipe: dict[str, Any]
    gmacs: float
    files: dict[str, File]


@dataclass(frozen=True)
class Request:
    """Images `span` of `seed`; label and map as Pipeline.draw takes them."""

    seed: int
    span: range
    label: Label
    map: np.ndarray | None  # (h, w), for all
    form: Form
    protocol: str  # of features


def recipe_of(pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """All that decides the files."""
    grain = pipeline.maps.drawn_by
    return {
        "weights_sha256": pipeline.network.sha256,
        "dvae_sha256": pipeline.dvae.sha256,
        "grain_sha256": grain.sha256 if grain else None,
        "latent_scale": pipeline.scale,
        "sampling": sampling_recipe(pipeline.sampling) | {"grain_steps": pipeline.maps.steps},
        "diffusion": asdict(pipeline.diffusion),
        "guidance": pipeline.guidance,
        "seed": request.seed,
        "first": request.span.start,
        "n": len(request.span),
        "label": request.label,
        "map": None if request.map is None else request.map.tolist(),
        "form": request.form,
        **({"protocol": request.protocol} if request.form == "features" else {}),
        **({"ratio": pipeline.maps.ratio} if pipeline.maps.learned == "random" else {}),
    }


def write_samples(
    pipeline: Pipeline, request: Request, folder: Path, share: Share | None = None
) -> bool:
    """Write the folder; False where it is there already. With `share` only its units are drawn."""
    recipe = recipe_of(pipeline, request)
    if _is_there(folder, recipe):
        return False
    pixels = 3 * pipeline.dvae.architecture["size"] ** 2
    require_space(folder, 2 * len(request.span) * max(pixels, 4 * DIMENSIONS))
    block = math.lcm(pipeline.sampling.block, BLOCK)
    units = Units(folder, recipe, divide(str(request.seed), request.span, UNIT, block))
    units.compute(partial(_draw_unit, pipeline, request), pipeline.maps.device, "sample", share)
    if share is None:
        units.devices(f"{folder}")
        with atomic_folder(folder) as temporary:
            maps = _put_together(pipeline, request, units, temporary)
            header = {"recipe": recipe, "gmacs": float(pipeline.gmacs(maps).mean())}
            header |= {"files": folder_files(temporary)}
            write_format(temporary / "samples.json", FORMAT, VERSION, header)
        units.remove()
    return True


def write_sheet(pipeline: Pipeline, request: Request, path: Path) -> Drawn:
    """One PNG of all the images, none left out: a row for each class, in the order of labels."""
    if path.suffix.lower() != ".png":
        raise UserError(f"{path} is to be a picture: give it a name that ends in .png.")
    if path.exists():
        raise UserError(f"{path} is there already: name another picture.")
    most = 1024  # all in memory at once
    if len(request.span) > most:
        raise UserError(f"A sheet has at most {most} images, not {len(request.span)}.")
    drawn = pipeline.draw(request.seed, np.array(request.span), request.map, request.label)
    rows = len(np.unique(drawn.labels))
    square = rows == 1 or len(drawn.labels) % rows
    columns = math.ceil(math.sqrt(len(drawn.labels))) if square else len(drawn.labels) // rows
    order = np.argsort(drawn.labels, kind="stable")
    with atomic_path(path) as temporary:
        Image.fromarray(grid(list(drawn.images[order]), columns)).save(temporary, "PNG")
    return drawn


def _is_there(folder: Path, recipe: dict[str, Any]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "samples.json").is_file():
        raise UserError(f"{folder} holds something else: name a new folder.")
    try:
        path, made_by = folder / "samples.json", "d2it sample"
        header = read_format(path, FORMAT, VERSION, made_by=made_by)
        conform(Header, header, path, made_by)
    except UserError:  # damaged, or of another version
        header = {}
    if header.get("recipe") != recipe:
        raise UserError(f"{folder} holds other samples: delete it, or name a new folder.")
    return all(
        (folder / name).is_file() and file_digest(folder / name) == entry["sha256"]
        for name, entry in header["files"].items()
    )


def _draw_unit(pipeline: Pipeline, request: Request, unit: Unit, advance: Advance) -> Arrays:
    drawn, span, block = [], unit.span, pipeline.sampling.block
    for start in range(span.start - span.start % block, span.stop, block):
        indices = np.arange(max(start, span.start), min(start + block, span.stop))
        drawn.append(vars(pipeline.draw(request.seed, indices, request.map, request.label)))
        advance(len(indices))
    arrays = joined(drawn)
    if request.form == "features":
        arrays["features"] = Inception(request.protocol, pipeline.maps.device)(arrays["images"])
    return arrays


def _put_together(pipeline: Pipeline, request: Request, units: Units, folder: Path) -> np.ndarray:
    """One unit's images in memory at a time; all maps."""
    n, first = len(request.span), request.span.start
    side = pipeline.dvae.architecture["size"]

    def every(name: str) -> Iterator[np.ndarray]:
        return (units.load(unit)[name] for unit in units.all)

    maps, labels = (np.concatenate(list(every(name))) for name in ("maps", "labels"))
    np.save(folder / "maps.npy", maps)
    np.save(folder / "labels.npy", labels)
    if request.form == "png":
        digits = max(6, len(str(request.span.stop - 1)))
        numbered = (image for images in every("images") for image in images)
        for i, image in enumerate(numbered, start=first):
            Image.fromarray(image).save(folder / f"{i:0{digits}d}.png")
    elif request.form == "packed":
        _write_npy(folder / "images.npy", every("images"), (n, side, side, 3), np.uint8)
    elif request.form == "npz":
        _write_npz(
            folder / "samples.npz", every("images"), (n, side, side, 3), folder / "labels.npy"
        )
    else:
        _write_npy(folder / "features.npy", every("features"), (n, DIMENSIONS), np.float32)
    _write_pictures(pipeline, units, folder)
    return maps


def _write_npy(
    path: Path, arrays: Iterator[np.ndarray], shape: tuple[int, ...], dtype: Any
) -> None:
    whole = np.lib.format.open_memmap(path, "w+", dtype, shape)
    at = 0
    for array in arrays:
        whole[at : at + len(array)] = array
        at += len(array)
    whole.flush()


def _write_npz(
    path: Path, arrays: Iterator[np.ndarray], shape: tuple[int, ...], labels: Path
) -> None:
    """arr_0 images, arr_1 labels: what ADM's evaluator reads, written without holding all."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as file:
        with file.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as entry:
            described = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, described)
            for array in arrays:
                entry.write(array.tobytes())
        file.writestr(zipfile.ZipInfo("arr_1.npy"), labels.read_bytes())


def _write_pictures(pipeline: Pipeline, units: Units, folder: Path) -> None:
    end = units.all[0].span.start + SHOWN
    shown = joined([units.load(unit) for unit in units.all if unit.span.start < end])
    images, maps = list(shown["images"][:SHOWN]), list(shown["maps"][:SHOWN])
    columns = math.ceil(math.sqrt(len(images)))
    Image.fromarray(grid(images, columns)).save(folder / SHEETS[0])
    if pipeline.kind == "content":
        pairs = zip(images, maps, strict=True)
        both = [beside([image, overlay(image, map, pipeline.grains)]) for image, map in pairs]
        Image.fromarray(grid(both, math.ceil(columns / 2))).save(folder / SHEETS[1])


def read_map(path: Path, side: int, grains: int) -> np.ndarray:
    """A drawn grain map, dark coarse and bright fine, as (side, side) int64.

    A picture larger by a whole factor is averaged over each region.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: name a picture of a grain map.")
    try:
        with open_image(path) as file:
            file.load()
            grey = _grey(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a picture ({reason(error)}).") from None
    height, width = grey.shape
    if height != width or height % side:
        raise UserError(
            f"{path} has {width} x {height} px, but the grain map has {side} x {side} regions: "
            f"draw it at {side} x {side} px, or at a multiple such as {8 * side} x {8 * side}."
        )
    cells = height // side
    brightness = grey.reshape(side, cells, side, cells).mean((1, 3)) / 256
    return (brightness * grains).astype(np.int64)


def _grey(image: Image.Image) -> np.ndarray:
    """(H, W) float64 in [0, 255]; transparent parts are white, as viewers show them."""
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, and nothing says how bright 1 is")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        return np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("L"), dtype=np.float64)
