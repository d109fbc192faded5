"""Images of your own, FFHQ or ImageNet: which are trained on, their classes, their pixels."""

import io
import os
import warnings
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from d2it.config.schema import Dataset
from d2it.data import imagenet
from d2it.data.archive import SUFFIXES, Picture, list_pictures
from d2it.data.collection import Collection, Split, stream
from d2it.data.fetch import check_archives
from d2it.errors import UserError
from d2it.files import canonical_digest

SMALLEST = 8  # pixels on the short side; below, there is no picture to enlarge
LARGEST = 2**26  # pixels after enlarging; above, a strip of 8 px would fill the memory


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
            f"data.{name}.source to a folder, zip or tar."
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
    classes = class_names(pool, root, name) if dataset.classes else []
    splits = {
        "train": Split(train, labels_of(Pool(train, pool.depth), root, classes, name)),
        "test": Split(test, labels_of(Pool(test, held_out.depth), root, classes, name)),
    }
    return Collection(
        splits,
        partial(load_image, plain=dataset.read == "plain", smallest=dataset.smallest),
        [f"{wnid} {titles[wnid]}" if wnid in titles else wnid for wnid in classes],
        dataset.licence or "not stated",
        dataset.citation or "not stated",
        canonical_digest([[picture.name, picture.size] for picture in [*train, *test]]),
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
    folders = [picture.name.split("/")[:-1] for picture in pictures]
    depth = 0
    if pictures[0].container != str(root) or root.is_file():
        depth = len(os.path.commonprefix(folders))
        if classes and depth == max(map(len, folders)):
            depth -= 1  # the only class
    parts: dict[str, list[Picture]] = {}
    for picture, folder in zip(pictures, folders, strict=True):
        parts.setdefault(folder[depth] if len(folder) > depth else "", []).append(picture)
    if "train" not in parts:
        return Pool(pictures, depth), Pool([], depth)
    held_out = [parts[name] for name in ("test", "val") if name in parts] or [[]]
    if classes:  # those whose classes are known: ImageNet's own test/ is flat
        held_out.sort(key=lambda some: any(p.name.count("/") < depth + 2 for p in some))
    return Pool(parts["train"], depth + 1), Pool(held_out[0], depth + 1)


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


def class_names(pool: Pool, root: Path, name: str) -> list[str]:
    """The sub-folders that hold the classes, sorted; as wnids are, so labels are the usual ones.

    Only the setting `classes` asks for them: FFHQ's sub-folders of a thousand are no classes.
    """
    folders = [picture.name.split("/")[pool.depth : -1] for picture in pool.pictures]
    if not all(folders):
        raise UserError(
            f"{root} holds images outside of class folders: put each into its class's folder, "
            f"or set data.{name}.classes to 0."
        )
    return sorted({folder[0] for folder in folders})


def labels_of(pool: Pool, root: Path, classes: list[str], name: str) -> np.ndarray:
    if not classes:
        return np.zeros(len(pool.pictures), dtype=np.int64)
    number = {folder: label for label, folder in enumerate(classes)}
    folders = [picture.name.split("/")[pool.depth] for picture in pool.pictures]
    if unknown := set(folders) - set(number):
        raise UserError(
            f"{root} holds {min(unknown)!r}, which is no class of the training images: "
            "give held-out images the same class folders, or set "
            f"data.{name}.test to 0 to hold out none."
        )
    return np.array([number[folder] for folder in folders], dtype=np.int64)


def load_image(
    picture: Picture, size: int, plain: bool = False, smallest: int = SMALLEST
) -> np.ndarray:
    """(size, size, 3) uint8; `plain`: decoded as ADM and DiT do, whatever it is shown like."""
    content = io.BytesIO(picture.read())
    image = read_plain(content) if plain else read_rgb(content)
    return np.array(centre_crop(_large_enough(image, smallest), size))


def read_plain(source: IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _open(source) as file:
            return _large_enough(file.convert("RGB"))


def _open(source: Path | str | IO[bytes]) -> Image.Image:
    try:
        return Image.open(source)
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"it has more than {most / 1e6:.0f} million pixels") from None


def _large_enough(image: Image.Image, smallest: int = SMALLEST) -> Image.Image:
    if min(image.size) < smallest:
        raise ValueError(f"{image.width} x {image.height} px is too small, {smallest} are needed")
    return image


def read_rgb(source: Path | str | IO[bytes]) -> Image.Image:
    """The picture as a viewer shows it: upright, in RGB, on white where it is transparent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata does not matter, and damage raises
        with _open(source) as file:
            file.load()
            image = _large_enough(ImageOps.exif_transpose(file))
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        levels = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
        image = Image.fromarray(levels.round().astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def reason(error: Exception) -> str:
    """Why a picture could not be read, in one line; decoders do not always say it."""
    if isinstance(error, UnidentifiedImageError):  # Pillow names the buffer, not the file
        return "no image of a known kind"
    return " ".join(str(error).split()) or type(error).__name__


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's: halve by boxes while twice too large, then bicubic on the short side, then the centre.

    https://github.com/openai/guided-diffusion; DiT and all numbers on its line are computed on it.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    if shape[0] * shape[1] > LARGEST:
        raise ValueError(f"{image.width} x {image.height} px is too long: it would be enlarged")
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
