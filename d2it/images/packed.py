"""Packed images: a data set at its training resolution in a few large, memory-mapped files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from d2it.config import Config, paths, recipe
from d2it.config.documents import conform
from d2it.errors import SETTINGS, UserError
from d2it.files import File, canonical_digest, file_digest, read_format, write_format

FORMAT, VERSION = "d2it-images", 1
FILE_BYTES = 2**30  # of one file: large enough for few files, small enough to be packed in memory


def images_per_file(size: int) -> int:
    return max(1, FILE_BYTES // (3 * size**2))


def file_entry(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}


def write_manifest(folder: Path, header: dict[str, Any], splits: dict[str, Any]) -> None:
    """The header of the files that already stand in `folder`."""
    digest = canonical_digest([entry["sha256"] for entry in file_entries(splits)])
    manifest = {**header, "splits": splits, "digest": digest}
    write_format(folder / "manifest.json", FORMAT, VERSION, manifest)


class Entry(File):
    """A file of images or labels."""

    name: str


class Images(Entry):
    count: int


class Split(TypedDict):
    count: int
    files: list[Images]
    labels: Entry


class Manifest(TypedDict):
    """What is read of manifest.json."""

    size: int
    classes: list[str]
    recipe_digest: str
    digest: str
    splits: dict[str, Split]


def read_manifest(folder: Path) -> dict[str, Any]:
    path, made_by = folder / "manifest.json", _made_by(folder)
    header = read_format(path, FORMAT, VERSION, made_by=made_by)
    conform(Manifest, header, path, made_by)
    return header


def _made_by(folder: Path) -> str:
    return f"d2it prepare {folder.parent.name}"


def file_entries(splits: dict[str, Any]) -> list[dict[str, Any]]:
    """Every file of the data set, in a fixed order."""
    return [
        entry
        for name in sorted(splits)
        for entry in [*splits[name]["files"], splits[name]["labels"]]
    ]


def check_files(folder: Path, splits: dict[str, Any]) -> None:
    """Every file is there and whole, as far as its size tells."""
    for entry in file_entries(splits):
        path = folder / entry["name"]
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            raise _again(
                path,
                "is missing" if found is None else f"has {found} bytes instead of {entry['bytes']}",
            )


def _again(path: Path, state: str) -> UserError:
    folder = path.parent
    return UserError(f"{path} {state}: delete {folder} and run `{_made_by(folder)}{SETTINGS}`.")


def _load_labels(path: Path, n: int, classes: int) -> np.ndarray:
    """(n,) int64, from 0 to classes - 1; without classes all 0."""
    try:
        labels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise _again(path, "is damaged") from None
    known = max(1, classes)
    if labels.shape != (n,) or labels.dtype != np.int64:
        raise _again(path, f"holds {labels.shape} of {labels.dtype}, not {n} labels")
    if ((labels < 0) | (labels >= known)).any():
        raise _again(path, f"has labels outside 0..{known - 1}")
    return np.array(labels)


@dataclass(frozen=True, eq=False)
class PackedImages:
    """One split of a data set. Indexing reads only the images asked for."""

    folder: Path
    split: str
    size: int
    classes: list[str]
    digest: str  # of the whole data set
    labels: np.ndarray  # (N,) int64; zeros where the data set has no classes
    maps: list[np.memmap]  # per file, (count, size, size, 3) uint8
    starts: np.ndarray  # index of each file's first image

    @classmethod
    def open(cls, folder: Path | str, split: str) -> "PackedImages":
        folder = Path(folder)
        manifest = read_manifest(folder)
        if split not in manifest["splits"]:
            raise UserError(
                f"{folder} has no split {split!r}: choose one of {', '.join(manifest['splits'])}."
            )
        check_files(folder, manifest["splits"])
        entry, size = manifest["splits"][split], manifest["size"]
        counts = [file["count"] for file in entry["files"]]
        for file in entry["files"]:
            if file["bytes"] != (shown := 3 * size**2 * file["count"]) or size < 1:
                raise _again(folder / file["name"], f"has {file['bytes']} bytes, not {shown}")
        maps = [
            np.memmap(folder / file["name"], np.uint8, "r", shape=(file["count"], size, size, 3))
            for file in entry["files"]
        ]
        labels = _load_labels(
            folder / entry["labels"]["name"], sum(counts), len(manifest["classes"])
        )
        starts = np.cumsum([0, *counts[:-1]])
        return cls(
            folder, split, size, manifest["classes"], manifest["digest"], labels, maps, starts
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, in that order. (n,) -> (n, size, size, 3) uint8."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.split} of {self.folder} has {len(self)} images")
        images = np.empty((len(indices), self.size, self.size, 3), dtype=np.uint8)
        files = np.searchsorted(self.starts, indices, side="right") - 1
        for file in np.unique(files):
            chosen = files == file
            images[chosen] = self.maps[file][indices[chosen] - self.starts[file]]
        return images


def open_images(config: Config, data: str, split: str) -> PackedImages:
    """A split of the data set `data`, which must be packed as this configuration asks."""
    folder = paths.images(config, data)
    wanted = recipe.digest(recipe.images_recipe(config, data))
    if read_manifest(folder)["recipe_digest"] != wanted:
        raise UserError(
            f"{folder} was packed with other settings than data.{data} has now: "
            f"run `d2it prepare {data}{SETTINGS}`."
        )
    return PackedImages.open(folder, split)
