"""Pack a data set's images at the training resolution (`d2it prepare`)."""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2it.config import Config, paths, recipe
from d2it.config.schema import Dataset
from d2it.config.typed import nearest
from d2it.errors import UserError
from d2it.files import atomic_path, require_space, write_text
from d2it.images.collection import Collection, Split
from d2it.images.decode import reason
from d2it.images.emoji import emoji_collection
from d2it.images.folder import folder_collection
from d2it.images.packed import (
    check_files,
    file_entry,
    images_per_file,
    read_manifest,
    write_manifest,
)
from d2it.images.packing import Chunk, chunks_of, pack, runner
from d2it.images.photos import photo_collection
from d2it.machine.pools import cpus
from d2it.text import printable

MANY = 10_000  # images from which on other processes repay their start, and a look ahead its time
LOOKS = 16  # images of these
EMBEDDED = {"photos": photo_collection, "emoji": emoji_collection}  # by source


def prepare(config: Config, data: str, processes: int | None = None) -> bool:
    """Pack the data set `data`; False if it was there already.

    A run that was killed, or met more damaged images than it may leave out, goes on when repeated
    with the files that it finished. How many processes there are changes no byte.
    """
    dataset = find_dataset(config, data)
    folder = paths.images(config, data)
    images_recipe = recipe.images_recipe(config, data)
    key = recipe.digest(images_recipe)
    collection = collect(dataset, config.seed, data)
    header = {
        "name": data,
        "size": dataset.size,
        "classes": collection.classes,
        "licence": collection.licence,
        "citation": collection.citation,
        "recipe": images_recipe,
        "recipe_digest": key,
        "listing": collection.listing,
    }
    if is_current(folder, header):
        return False
    total = sum(len(split.items) for split in collection.splits.values())
    if total >= MANY:
        look_ahead(collection, dataset)
    if processes is None:
        processes = cpus() if total >= MANY else 1
    with staging(folder) as part, runner(processes) as run:
        chunks = {
            name: chunks_of(part, name, split.items, images_per_file(dataset.size), key)
            for name, split in collection.splits.items()
        }
        every = [chunk for some in chunks.values() for chunk in some]
        done = sum(len(chunk.items) for chunk in every if chunk.is_finished())
        require_space(part, (total - done) * 3 * dataset.size**2)
        with tqdm(total=total, unit="image", desc=f"prepare {data}", disable=None) as bar:
            pack(every, collection.load, dataset.size, run, bar)
        write_problems(chunks, problems_file(config, data))
        left_out = check_damage(every, dataset, data, problems_file(config, data))
        splits = {
            name: seal_split(part, name, split, chunks[name])
            for name, split in collection.splits.items()
        }
        write_manifest(part, header | ({"left_out": left_out} if left_out else {}), splits)
        expected = {chunk.path for chunk in every} | {part / "manifest.json"}
        expected |= {part / entry["labels"]["name"] for entry in splits.values()}
        for path in set(part.iterdir()) - expected:  # records, and files of earlier settings
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


def find_dataset(config: Config, data: str) -> Dataset:
    if data not in config.data:
        raise UserError(
            f"Scale {config.name} has no data set {data!r}{nearest(data, list(config.data))}: "
            f"choose one of {', '.join(config.data)}."
        )
    return config.data[data]


def collect(dataset: Dataset, seed: int, data: str) -> Collection:
    collection = EMBEDDED.get(dataset.source, folder_collection)(dataset, seed, data)
    if len(collection.classes) != dataset.classes:
        raise UserError(
            f"data.{data}.classes is {dataset.classes}, but there are {len(collection.classes)}: "
            "set it to that number, or to 0 for no labels."
        )
    return collection


def look_ahead(collection: Collection, dataset: Dataset) -> None:
    """Say at once, not after hours, that all images are of the wrong kind (thumbnails, say)."""
    items = [item for split in collection.splits.values() for item in split.items]
    spread = items[:: len(items) // LOOKS][:LOOKS]
    for item in spread:
        try:
            collection.load(item, dataset.size)
            return
        except Exception as error:  # decoders meet damage with every kind
            why = reason(error)
    raise UserError(
        f"Cannot read {spell(item)} ({why}), nor any other of {LOOKS} images out of "
        f"{len(items)}: check what {dataset.source} holds."
    )


def is_current(folder: Path, header: dict[str, Any]) -> bool:
    """Whether `folder` is whole and holds what `header` asks for."""
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest["splits"])
    except UserError:
        return False
    return all(manifest.get(key) == header[key] for key in ("name", "recipe_digest", "listing"))


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end; until then it stays if it holds
    finished files."""
    part = folder.with_name(f".{folder.name}.part")
    missing = [parent for parent in part.parents if not parent.exists()]
    (part / "finished").mkdir(parents=True, exist_ok=True)
    try:
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except (UserError, OSError):
        for begun in part.glob(".*.part"):
            begun.unlink()
        if not any((part / "finished").iterdir()):
            shutil.rmtree(part)
            with suppress(OSError):  # not empty
                for parent in missing:
                    parent.rmdir()
        raise


def problems_file(config: Config, data: str) -> Path:
    """What `d2it prepare` found wrong: unreadable images and equal ones."""
    return paths.images(config, data).with_name("problems.csv")


def write_problems(chunks: dict[str, list[Chunk]], path: Path) -> None:
    """Write down what is wrong with which file; nothing where nothing is."""
    rows = []
    seen: dict[str, str] = {}
    for split, some in chunks.items():
        for chunk in some:
            for i, item in enumerate(chunk.items):
                if i in chunk.reasons:
                    rows.append((split, spell(item), chunk.reasons[i]))
                elif (other := seen.setdefault(chunk.digests[i], f"{split} {spell(item)}")) != (
                    f"{split} {spell(item)}"
                ):
                    rows.append((split, spell(item), f"the same pixels as {other}"))
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("split", "file", "problem"), *rows])
    write_text(path, text.getvalue())


def spell(item: Any) -> str:
    """A name on one line that can be printed, whatever bytes the file's has."""
    name = str(item)
    return printable(name, longest=len(name))


def check_damage(chunks: list[Chunk], dataset: Dataset, data: str, problems: Path) -> int:
    """How many images are left out; more than allowed are an error that keeps the other files."""
    damaged = [chunk for chunk in chunks if chunk.reasons]
    count = sum(len(chunk.reasons) for chunk in damaged)
    if count > dataset.damaged:
        i, why = next(iter(damaged[0].reasons.items()))
        first = f"{spell(damaged[0].items[i])} ({why})"
        for chunk in damaged:
            chunk.discard()
        others = f" and {count - 1} more, which {problems} names" if count > 1 else ""
        raise UserError(
            f"Cannot read {first}{others}: replace or remove such files, or set "
            f"data.{data}.damaged to {count} to leave them out, and run again."
        )
    return count


def seal_split(part: Path, name: str, split: Split, chunks: list[Chunk]) -> dict[str, Any]:
    """Write the labels of what was packed; returns the split's entry in the manifest."""
    kept = np.ones(len(split.items), dtype=bool)
    start = 0
    for chunk in chunks:
        kept[[start + i for i in chunk.reasons]] = False
        start += len(chunk.items)
    labels = part / f"{name}-labels.npy"
    with atomic_path(labels) as temporary, open(temporary, "wb") as file:
        np.save(file, split.labels[kept], allow_pickle=False)
    files = [chunk.entry for chunk in chunks]
    return {"count": int(kept.sum()), "files": files, "labels": file_entry(labels)}
