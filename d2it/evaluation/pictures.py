"""Anybody's images: a folder of them, or a batch in an .npz file as ADM's evaluator reads it."""

import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from d2it.data.folder import list_images, read_rgb, reason
from d2it.errors import UserError
from d2it.evaluation.features import DIMENSIONS, SPATIAL
from d2it.evaluation.metrics import Gaussian
from d2it.files import canonical_digest, file_digest

Images = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Pictures:
    """Images in a fixed order, read when they are needed."""

    name: str  # as a person calls them
    n: int
    read: Callable[[int, int], Images]  # (start, stop) -> images (H, W, 3) uint8
    digest: str  # of their content
    side: tuple[int, int] | None  # the short and the long one in pixels; None: of many sizes
    copies: int = 0  # images that are the same bytes as one before
    # of more images than there are here, by kind of feature: the statistics of a reference batch
    gaussians: dict[str, Gaussian] | None = None


def open_pictures(path: Path | str, n: int | None = None) -> Pictures:
    """The first n images by name below a folder, or of an .npz file; None: all of them."""
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        pictures = _batch(path, n)
    elif path.is_dir():
        pictures = _folder(path, n)
    else:
        raise UserError(f"{path} is neither a folder of images nor an .npz file: name one.")
    if n is not None and pictures.n < n:
        raise UserError(
            f"{path} holds {pictures.n} images, but {n} are asked for: add some, or ask for fewer."
        )
    if pictures.n < 2:
        raise UserError(
            f"{path} holds {pictures.n} image, but a distance needs at least two images: add some."
        )
    return pictures


def _folder(path: Path, n: int | None) -> Pictures:
    files = list_images(path)[:n]
    sides = {_side(file) for file in files}
    digests = Counter(file_digest(file) for file in files)
    return Pictures(
        str(path),
        len(files),
        lambda start, stop: [_read(file) for file in files[start:stop]],
        canonical_digest(sorted(digests.elements())),
        sides.pop() if len(sides) == 1 else None,
        len(files) - len(digests),
    )


def _side(file: Path) -> tuple[int, int]:
    """From the header alone."""
    try:
        with Image.open(file) as image:
            short, long = sorted(image.size)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(_unreadable(file, error)) from None
    return short, long


def _read(file: Path) -> np.ndarray:
    try:
        return np.asarray(read_rgb(file))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(_unreadable(file, error)) from None


def _unreadable(file: Path, error: Exception) -> str:
    return f"{file} cannot be read ({reason(error)}): mend or remove it."


def _batch(path: Path, n: int | None) -> Pictures:
    """`arr_0` holds the images; `mu`, `sigma`, `mu_s`, `sigma_s` statistics of a whole data set."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            images: np.ndarray = file["arr_0"] if "arr_0" in names else np.empty(0)
            # statistics are of all images, so they are not those of the first n
            stored = {name: file[name] for name in names - {"arr_0"}} if n is None else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(_unreadable(path, error)) from None
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"{path} is no batch of images: its arr_0 must be (images, height, width, 3) of uint8, "
            f"but is {'missing' if not images.size else f'{images.shape} of {images.dtype}'}."
        )
    images = images[:n]
    short, long = sorted(images.shape[1:3])
    return Pictures(
        str(path),
        len(images),
        lambda start, stop: images[start:stop],
        canonical_digest([file_digest(path), len(images)]),
        (short, long),
        len(images) - len({sha256(image.tobytes()).digest() for image in images}),
        _statistics(path, stored, len(images)),
    )


def _statistics(path: Path, stored: dict[str, np.ndarray], n: int) -> dict[str, Gaussian] | None:
    if "mu" not in stored:
        return None
    found = {}
    for name, mean, covariance, width in (
        ("features", "mu", "sigma", DIMENSIONS),
        ("spatial", "mu_s", "sigma_s", SPATIAL),
    ):
        shapes = {mean: (width,), covariance: (width, width)}
        for key, shape in shapes.items():
            array = stored.get(key)
            if array is None or array.shape != shape or not np.isfinite(array).all():
                raise UserError(
                    f"{path} is no reference batch: its {key} must be {shape} finite numbers."
                )
        mu, sigma = (torch.from_numpy(stored[key].astype(np.float64)) for key in shapes)
        found[name] = Gaussian(n, mu, sigma)
    return found
