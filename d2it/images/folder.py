"""Images of your own, FFHQ or ImageNet: which are trained on, and their classes."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2it.config.schema import Dataset
from d2it.errors import UserError
from d2it.files import canonical_digest
from d2it.images import imagenet, parquet
from d2it.images.archive import Picture, list_pictures
from d2it.images.collection import Collection, Split, stream
from d2it.images.decode import load_image
from d2it.images.names import SUFFIXES, is_parquet
from d2it.sources.fetch import check_archives


class Pool(NamedTuple):
    """Images to choose from."""

    pictures: list[Picture]
    depth: int  # folders in their names before that of the class


def folder_collection(dataset: Dataset, seed: int, name: str) -> Collection:
    """Training images from `train/` and held-out ones from `test/` or `val/`, or both from one."""
    if dataset.crop != (1.0, 1.0):
        raise UserError(
            f"data.{name}.crop is for the embedded photographs: leave it at [1.0, 1.0]."
        )
    root = Path(dataset.source)
    if not root.exists():
        raise UserError(
            f"{root} is missing: {dataset.origin or 'put the images there'}, or set "
            f"data.{name}.source to a folder, zip, tar or parquet file."
        )
    check_archives(root)
    titles: dict[str, str] = {}
    if (root / imagenet.TRAIN).is_file():
        *found, titles = imagenet.list_imagenet(root)
        pool, held_out = (Pool(pictures, 0) for pictures in found)
    else:
        pool, held_out = find_pools(root, dataset.classes)
    if dataset.images not in (None, len(pool.pictures)):
        raise UserError(
            f"{root} holds {len(pool.pictures)} training images, but data.{name}.images says "
            f"{dataset.images}: complete them, or set it to null for another data set."
        )
    if held_out.pictures and dataset.test != 0:
        train = draw(pool.pictures, dataset.train, seed, "train", f"data.{name}.train")
        test = draw(held_out.pictures, dataset.test, seed, "test", f"data.{name}.test")
    else:
        train, test = divide(pool.pictures, dataset, seed, name)
        held_out = pool
    classes: list[str] = []
    labelling = no_labels
    if dataset.classes and _have_labels(pool.pictures):
        check_numbers(pool, root, dataset.classes, name)
        classes, labelling = stated_names([*train, *test], dataset.classes), stated_labels
    elif dataset.classes:
        classes, labelling = class_names(pool, root, name), labels_of
    splits = {
        "train": Split(train, labelling(Pool(train, pool.depth), root, classes, name)),
        "test": Split(test, labelling(Pool(test, held_out.depth), root, classes, name)),
    }
    return Collection(
        splits,
        partial(load_image, plain=dataset.read == "plain", smallest=dataset.smallest),
        [f"{wnid} {titles[wnid]}" if wnid in titles else wnid for wnid in classes],
        dataset.licence or "not stated",
        dataset.citation or "not stated",
        canonical_digest([identity(picture) for picture in [*train, *test]]),
    )


def list_images(root: Path) -> list[Picture]:
    """`list_pictures`, of which there must be some."""
    pictures = list_pictures(root)
    if not pictures:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UserError(f"{root} holds no images: put some there ({kinds}).")
    return pictures


def find_pools(root: Path, classes: int) -> tuple[Pool, Pool]:
    """The images to train on and, if there is a `train/`, those of `test/` or `val/` beside it.

    Archives often hold one folder that holds all the rest: it is no class, and not looked at.
    """
    pictures = list_images(root)
    packed = pictures[0].container != str(root) or root.is_file()
    depth = _common(pictures, 0, classes) if packed else 0
    parts: dict[str, list[Picture]] = {}
    for picture in pictures:
        folder = picture.name.split("/")[:-1]
        parts.setdefault(folder[depth] if len(folder) > depth else "", []).append(picture)
    if "train" not in parts:
        return Pool(pictures, depth), Pool([], depth)

    def pool(some: list[Picture]) -> Pool:
        return Pool(some, _common(some, depth + 1, classes) if packed and some else depth + 1)

    held_out = [parts[name] for name in ("test", "val") if name in parts] or [[]]
    if classes:  # those whose classes are known: ImageNet's own test/ has none
        stated = _have_labels(parts["train"])
        held_out.sort(
            key=lambda some: any(
                p.label is None if stated else p.name.count("/") < depth + 2 for p in some
            )
        )
    return pool(parts["train"]), pool(held_out[0])


def _common(pictures: list[Picture], depth: int, classes: int) -> int:
    """How many folders all of them lie in, of which the last is none if it is the only class."""
    folders = [picture.name.split("/")[:-1] for picture in pictures]
    common = len(os.path.commonprefix(folders))
    return max(depth, common - (classes > 0 and common == max(map(len, folders))))


def identity(picture: Picture) -> tuple[str | int, ...]:
    """What tells whether it is another picture than before, or of another class."""
    label = () if picture.label is None else (picture.label,)
    return picture.name, picture.size, *label


def draw(
    files: list[Picture], count: int | None, seed: int, split: str, where: str
) -> list[Picture]:
    """`count` of the files, chosen at random but kept in order; None: all."""
    if count is not None and count > len(files):
        raise UserError(f"{where} is {count}, but the folder holds {len(files)} images: lower it.")
    chosen = stream(seed, split).permutation(len(files))[:count]
    return [files[i] for i in sorted(chosen)]


def divide(
    files: list[Picture], dataset: Dataset, seed: int, name: str
) -> tuple[list[Picture], list[Picture]]:
    """Training and held-out images of one folder: the beginning and the end of one order."""
    test = dataset.test or 0
    train = len(files) - test if dataset.train is None else dataset.train
    if train < 1 or train + test > len(files):
        raise UserError(
            f"data.{name} asks for {max(train, 1)} training and {test} held-out images, "
            f"but the folder holds {len(files)}: lower train or test."
        )
    order = np.arange(len(files))
    if dataset.held_out == "random":
        order = stream(seed, "train").permutation(order)
    first, last = order[:train], order[len(files) - test :]
    return [files[i] for i in sorted(first)], [files[i] for i in sorted(last)]


def _have_labels(pictures: list[Picture]) -> bool:
    """Whether archives say them; then folders do not."""
    return any(picture.label is not None for picture in pictures)


def class_names(pool: Pool, root: Path, name: str) -> list[str]:
    """The sub-folders that hold the classes, sorted; as wnids are, so labels are the usual ones.

    Only the setting `classes` asks for them: FFHQ's sub-folders of a thousand are no classes.
    """
    if any(is_parquet(picture.container) for picture in pool.pictures):
        raise UserError(
            f"{root} holds parquet files without a column of whole numbers named "
            f"{' or '.join(parquet.LABELS)}: add it, or set data.{name}.classes to 0."
        )
    folders = [picture.name.split("/")[pool.depth : -1] for picture in pool.pictures]
    if not all(folders):
        raise UserError(
            f"{root} holds images outside of class folders: put each into its class's folder, "
            f"or number its class in a .cls beside it in a tar, or set data.{name}.classes to 0."
        )
    return sorted({folder[0] for folder in folders})


def no_labels(pool: Pool, root: Path, classes: list[str], name: str) -> np.ndarray:
    return np.zeros(len(pool.pictures), dtype=np.int64)


def labels_of(pool: Pool, root: Path, classes: list[str], name: str) -> np.ndarray:
    number = {folder: label for label, folder in enumerate(classes)}
    folders = [picture.name.split("/")[pool.depth] for picture in pool.pictures]
    if unknown := set(folders) - set(number):
        raise UserError(
            f"{root} holds {min(unknown)!r}, which is no class of the training images: "
            "give held-out images the same class folders, or set "
            f"data.{name}.test to 0 to hold out none."
        )
    return np.array([number[folder] for folder in folders], dtype=np.int64)


def check_numbers(pool: Pool, root: Path, count: int, name: str) -> None:
    """No training image is of a class beyond those that are asked for."""
    last = max(picture.label for picture in pool.pictures if picture.label is not None)
    if last >= count:
        raise UserError(
            f"data.{name}.classes is {count}, but {root} has a class {last}, counted from 0: raise "
            "it, or set it to 0 for no labels."
        )


def stated_names(pictures: Sequence[Picture], count: int) -> list[str]:
    """What parquet files call the classes that they number; other archives do not say it."""
    files = sorted({p.container for p in pictures if is_parquet(p.container)})
    named = {file: names for file in files if (names := parquet.class_names(file))}
    first, classes = next(iter(named.items()), ("", [str(number) for number in range(count)]))
    for file, names in named.items():
        if names != classes:
            raise UserError(
                f"{file} names its classes differently from {first}, so equal numbers mean "
                "different classes: choose one of the two files."
            )
    return classes


def stated_labels(pool: Pool, root: Path, classes: list[str], name: str) -> np.ndarray:
    for picture in pool.pictures:
        if picture.label is None or picture.label >= len(classes):
            said = "no class" if picture.label is None else f"class {picture.label}"
            raise UserError(
                f"{picture} has {said}, but there are {len(classes)}, numbered from 0: mend its "
                f"label, or hold out none of its kind (data.{name}.test=0)."
            )
    return np.array([picture.label for picture in pool.pictures], dtype=np.int64)
