"""Anybody's images: a folder or archive of them, or a batch in one .npz or .npy array."""

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from d2it.errors import UserError
from d2it.evaluation.metrics import Gaussian
from d2it.files import canonical_digest, file_digest
from d2it.grains.overlay import SHEETS
from d2it.images.archive import Picture
from d2it.images.decode import open_image, read_rgb, reason
from d2it.images.folder import list_images
from d2it.images.names import ARCHIVES
from d2it.models.inception import DIMENSIONS, SPATIAL

Images = Sequence[np.ndarray] | np.ndarray
BATCHES = ("samples.npz", "images.npy")  # of `d2it sample`


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
    """The first n images by name in a folder or archive, or of an array; None: all of them."""
    if n is not None and n < 2:
        raise UserError(f"--n is {n}, but a distance needs at least two images: raise it.")
    path = Path(path)
    if (path / "samples.json").is_file():  # `d2it sample` wrote it, in one form or another
        path = next((path / name for name in BATCHES if (path / name).is_file()), path)
    if path.suffix in (".npz", ".npy") and path.is_file():
        pictures = _batch(path, n)
    elif path.is_dir() or (path.suffix.lower() in ARCHIVES and path.is_file()):
        pictures = _folder(path, n)
    else:
        raise UserError(
            f"{path} is neither a folder, zip, tar or parquet file of images nor an .npz or .npy "
            "array of them: name one."
        )
    if n is not None and pictures.n < n:
        raise UserError(
            f"{n} images are asked for, but {path} holds {pictures.n}: add some, or ask for fewer."
        )
    if pictures.n < 2:
        raise UserError(
            f"A distance needs at least two images, but {path} holds {pictures.n}: add some."
        )
    return pictures


def _folder(path: Path, n: int | None) -> Pictures:
    files = [file for file in list_images(path) if not _is_sheet(file)][:n]
    sides: set[tuple[int, int]] = set()
    digests = Counter[str]()
    for file in files:
        with _readable(file):
            content = file.read()
            sides.add(_side(content))
        digests[sha256(content).hexdigest()] += 1
    return Pictures(
        str(path),
        len(files),
        lambda start, stop: [_read(file) for file in files[start:stop]],
        canonical_digest(sorted(digests.elements())),
        sides.pop() if len(sides) == 1 else None,
        len(files) - len(digests),
    )


def _is_sheet(file: Picture) -> bool:
    """Whether it is a picture of many samples beside them."""
    path = Path(str(file))
    return path.name in SHEETS and (path.parent / "samples.json").is_file()


@contextmanager
def _readable(file: Picture | Path) -> Iterator[None]:
    """Archives meet damage with every kind of exception, decoders too."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{file} cannot be read ({reason(error)}): mend or remove it.") from None


def _side(content: bytes) -> tuple[int, int]:
    """From the header alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading it will tell whether it is too large
        with open_image(io.BytesIO(content)) as image:
            short, long = sorted(image.size)
    return short, long


def _read(file: Picture) -> np.ndarray:
    with _readable(file):
        return np.asarray(read_rgb(io.BytesIO(file.read())))


def spell_side(side: tuple[int, int] | None) -> str:
    return f"{side[0]} x {side[1]} px" if side else "many sizes"


def _batch(path: Path, n: int | None) -> Pictures:
    """`arr_0` holds the images; `mu`, `sigma`, `mu_s`, `sigma_s` statistics of a whole data set."""
    with _readable(path):
        images, stored = _arrays(path)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"{path} is no batch of images: its array, in an .npz arr_0, must be (images, height, "
            "width, 3) of uint8, but is "
            f"{'missing' if not images.size else f'{images.shape} of {images.dtype}'}."
        )
    if n is not None:
        images, stored = images[:n], {}  # statistics are of all images, not of the first n
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


def _arrays(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The images, which stay on the disk where the file allows it, and what lies beside them."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False), {}
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        images = file["arr_0"] if "arr_0" in names else np.empty(0)
        return images, {name: file[name] for name in names - {"arr_0"}}


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
