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

from d2it.errors import UserError
from d2it.evaluation.image_arrays import read_images, read_statistics
from d2it.evaluation.metrics import Gaussian
from d2it.files import canonical_digest, file_digest
from d2it.grains.overlay import SHEETS
from d2it.images.archive import Picture
from d2it.images.decode import open_image, read_rgb, reason
from d2it.images.folder import list_images
from d2it.images.names import ARCHIVES

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
    except UserError:
        raise
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
        images = read_images(path)
        # statistics are of all images, not of the first n
        gaussians = read_statistics(path, len(images)) if n is None else None
    images = images[:n]
    short, long = sorted(images.shape[1:3])
    return Pictures(
        str(path),
        len(images),
        lambda start, stop: images[start:stop],
        canonical_digest([file_digest(path), len(images)]),
        (short, long),
        len(images) - len({sha256(image.tobytes()).digest() for image in images}),
        gaussians,
    )
