"""Pack a data set's images at the training resolution (`d2it prepare`)."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2it.config import Config, paths, recipe
from d2it.config.build import nearest
from d2it.config.schema import Dataset
from d2it.data.collection import Collection, Split
from d2it.data.folder import folder_collection, reason
from d2it.data.images import check_files, file_entry, images_per_file, read_manifest, write_manifest
from d2it.data.photos import photo_collection
from d2it.errors import UserError
from d2it.files import atomic_path, canonical_digest, require_space

MANY = 10_000  # images from which on other processes repay their start


def prepare(config: Config, data: str, workers: int | None = None) -> bool:
    """Pack the data set `data`; False if it was there already.

    A killed run goes on where it was when repeated; one that meets a damaged image or
    a full disk leaves nothing.
    """
    dataset = find_dataset(config, data)
    folder = paths.images(config, data)
    images_recipe = recipe.images_recipe(config, data)
    collection = collect(dataset, config.seed, data)
    header = {
        "name": data,
        "size": dataset.size,
        "classes": collection.classes,
        "licence": collection.licence,
        "citation": collection.citation,
        "recipe": images_recipe,
        "recipe_digest": recipe.digest(images_recipe),
        "listing": collection.listing,
    }
    if is_current(folder, header):
        return False
    total = sum(len(split.items) for split in collection.splits.values())
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if total >= MANY else 1
    with staging(folder, canonical_digest(header)) as part, mapper(workers) as mapped:
        require_space(part, total * 3 * dataset.size**2)
        with tqdm(total=total, unit="image", desc=f"prepare {data}", disable=None) as bar:
            load = partial(decode, collection.load, dataset.size)
            splits = {
                name: pack_split(part, name, split, dataset.size, partial(mapped, load), bar)
                for name, split in collection.splits.items()
            }
        write_manifest(part, header, splits)
    return True


def find_dataset(config: Config, data: str) -> Dataset:
    if data not in config.data:
        raise UserError(
            f"Scale {config.name} has no data set {data!r}{nearest(data, list(config.data))}: "
            f"choose one of {', '.join(config.data)}."
        )
    return config.data[data]


def collect(dataset: Dataset, seed: int, data: str) -> Collection:
    embedded = dataset.source == "photos"
    collection = (photo_collection if embedded else folder_collection)(dataset, seed, data)
    if len(collection.classes) != dataset.classes:
        raise UserError(
            f"data.{data}.classes is {dataset.classes}, but there are {len(collection.classes)}: "
            "set it to that number, or to 0 for no labels."
        )
    return collection


def is_current(folder: Path, header: dict[str, Any]) -> bool:
    """Whether `folder` is whole and holds what `header` asks for."""
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest["splits"])
    except UserError:
        return False
    return all(manifest.get(key) == header[key] for key in ("name", "recipe_digest", "listing"))


@contextmanager
def staging(folder: Path, key: str) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end.

    Its name says what is packed, so that a killed run goes on with the files that it finished.
    """
    part = folder.with_name(f".{folder.name}.{key[:16]}.part")
    missing = [parent for parent in part.parents if not parent.exists()]
    part.mkdir(parents=True, exist_ok=True)
    try:
        yield part
    except (UserError, OSError):
        shutil.rmtree(part)
        with suppress(OSError):  # not empty
            for parent in missing:
                parent.rmdir()
        raise
    for stale in part.glob(".*.part"):  # of a process that was killed while it wrote
        stale.unlink()
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)


@contextmanager
def mapper(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, in this process or in others: decoding holds Python's lock, so threads do not help."""
    if workers == 1:
        yield map
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield partial(pool.map, chunksize=32)


def decode(load: Callable[[Any, int], np.ndarray], size: int, item: Any) -> np.ndarray | str:
    """The pixels, or why there are none: decoders meet damage with every kind of exception."""
    try:
        return load(item, size)
    except Exception as error:
        return f"{item} ({reason(error)})"


def pack_split(
    part: Path,
    name: str,
    split: Split,
    size: int,
    load: Callable[[Sequence[Any]], Iterator[np.ndarray | str]],
    bar: tqdm,
) -> dict[str, Any]:
    """Write the files of one split; returns its entry in the manifest."""
    files = []
    step = images_per_file(size)
    for number, start in enumerate(range(0, len(split.items), step)):
        items = split.items[start : start + step]
        path = part / f"{name}-{number:05d}.bin"
        if path.exists():  # from a run that was killed: files appear only when they are whole
            bar.update(len(items))
        else:
            pack_file(path, items, size, load, bar)
        files.append({"count": len(items), **file_entry(path)})
    labels = part / f"{name}-labels.npy"
    with atomic_path(labels) as temporary, open(temporary, "wb") as file:
        np.save(file, split.labels, allow_pickle=False)
    return {"count": len(split.items), "files": files, "labels": file_entry(labels)}


def pack_file(
    path: Path,
    items: Sequence[Any],
    size: int,
    load: Callable[[Sequence[Any]], Iterator[np.ndarray | str]],
    bar: tqdm,
) -> None:
    pixels = np.empty((len(items), size, size, 3), dtype=np.uint8)
    damaged = []
    for i, image in enumerate(load(items)):
        if isinstance(image, str):
            damaged.append(image)
        else:
            pixels[i] = image
        bar.update()
    if damaged:
        others = f" and {len(damaged) - 1} more of {len(items)}" if len(damaged) > 1 else ""
        raise UserError(
            f"Cannot read {damaged[0]}{others}: replace or remove such files and run again."
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(pixels.data)  # tofile says of a full disk only that less was written
