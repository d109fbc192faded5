"""Image folders: FFHQ, ImageNet or your own, decoded as they should be and cropped as ADM does."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from d2it.config.schema import Dataset
from d2it.data.collection import Collection, Split, stream
from d2it.errors import UserError
from d2it.files import canonical_digest

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif"}
SMALLEST = 8  # pixels on the short side; below, there is no picture to enlarge

# Licence and citation of the data sets that the paper trains on.
KNOWN = {
    "ffhq": ("CC-BY-NC-SA-4.0, single photographs under their own", "Karras et al., CVPR 2019"),
    "imagenet": ("ImageNet terms of access", "Russakovsky et al., IJCV 2015"),
}


def folder_collection(dataset: Dataset, seed: int, name: str) -> Collection:
    """Training images from `train/` and held-out ones from `test/` or `val/`, or both from one."""
    if dataset.crop != (1.0, 1.0):
        raise UserError(
            f"data.{name}.crop is for the embedded photographs: leave it at [1.0, 1.0]."
        )
    root = (
        Path("data/archives", dataset.source) if dataset.source in KNOWN else Path(dataset.source)
    )
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: put the images there or set data.{name}.source.")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = next(
        (root / part for part in ("test", "val") if (root / part).is_dir()), train_root
    )
    files = list_images(train_root)
    if test_root == train_root or dataset.test == 0:
        test_root = train_root
        train, test = divide(files, dataset, seed, name)
    else:
        train = draw(files, dataset.train, seed, "train", f"data.{name}.train")
        test = draw(list_images(test_root), dataset.test, seed, "test", f"data.{name}.test")
    classes = class_names(files, train_root, dataset, name)
    splits = {
        "train": Split(train, labels_of(train, train_root, classes)),
        "test": Split(test, labels_of(test, test_root, classes)),
    }
    listing = [[path.relative_to(root).as_posix(), path.stat().st_size] for path in [*train, *test]]
    licence, citation = KNOWN.get(dataset.source, ("not stated", "not stated"))
    return Collection(splits, load_image, classes, licence, citation, canonical_digest(listing))


def list_images(folder: Path) -> list[Path]:
    """Every image below `folder`, sorted by name; hidden files and folders are left out."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UserError(f"{folder} holds no images: put some there ({kinds}).")
    return files


def draw(files: list[Path], count: int | None, seed: int, split: str, where: str) -> list[Path]:
    """`count` of the files, chosen at random but kept in order; None: all."""
    if count is not None and count > len(files):
        raise UserError(f"{where} is {count}, but the folder holds {len(files)} images: lower it.")
    chosen = stream(seed, split).permutation(len(files))[:count]
    return [files[i] for i in sorted(chosen)]


def divide(
    files: list[Path], dataset: Dataset, seed: int, name: str
) -> tuple[list[Path], list[Path]]:
    """Training and held-out images of one folder: the beginning and the end of one permutation."""
    test = dataset.test or 0
    train = len(files) - test if dataset.train is None else dataset.train
    if train < 1 or train + test > len(files):
        raise UserError(
            f"data.{name} asks for {max(train, 1)} training and {test} held-out images, "
            f"but the folder holds {len(files)}: lower train or test."
        )
    order = stream(seed, "train").permutation(len(files))
    first, last = order[:train], order[len(files) - test :]
    return [files[i] for i in sorted(first)], [files[i] for i in sorted(last)]


def class_names(files: list[Path], root: Path, dataset: Dataset, name: str) -> list[str]:
    """The sub-folders that hold the classes, sorted; none where the data set is unlabelled.

    Only the setting `classes` says so: FFHQ's sub-folders of a thousand are no classes.
    """
    if not dataset.classes:
        return []
    if any(path.parent == root for path in files):
        raise UserError(
            f"{root} holds images outside of class folders: put each into its class's folder, "
            f"or set data.{name}.classes to 0."
        )
    return sorted({path.relative_to(root).parts[0] for path in files})


def labels_of(files: list[Path], root: Path, classes: list[str]) -> np.ndarray:
    if not classes:
        return np.zeros(len(files), dtype=np.int64)
    number = {name: label for label, name in enumerate(classes)}
    folders = [path.relative_to(root).parts[0] for path in files]
    if unknown := set(folders) - set(number):
        raise UserError(
            f"{root} holds {min(unknown)!r}, which is no class of the training images: "
            "give held-out images the same class folders."
        )
    return np.array([number[folder] for folder in folders], dtype=np.int64)


def load_image(path: Path, size: int) -> np.ndarray:
    """(size, size, 3) uint8."""
    return np.array(centre_crop(read_rgb(path), size))


def read_rgb(path: Path | str) -> Image.Image:
    """The picture as a viewer shows it: upright, in RGB, on white where it is transparent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata does not matter, and damage raises
        try:
            file = Image.open(path)
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise ValueError(f"it has more than {most / 1e6:.0f} million pixels") from None
        with file:
            file.load()
            image = ImageOps.exif_transpose(file)
    if min(image.size) < SMALLEST:
        raise ValueError(f"{image.width} x {image.height} px is too small, {SMALLEST} are needed")
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
    return " ".join(str(error).split()) or type(error).__name__


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's: halve by boxes while twice too large, then bicubic on the short side, then the centre.

    https://github.com/openai/guided-diffusion; DiT and all numbers on its line are computed on it.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
