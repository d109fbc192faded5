"""From an image file of any make to the pixels that are trained on."""

import io
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from d2it.images.archive import Picture

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")  # e.g. no EPS: it runs programs
SMALLEST = 8  # pixels on the short side; below, there is no picture to enlarge
LARGEST = 2**26  # pixels after enlarging; above, a strip of 8 px would fill the memory


def load_image(
    picture: Picture, size: int, plain: bool = False, smallest: int = SMALLEST
) -> np.ndarray:
    """(size, size, 3) uint8; `plain`: decoded as ADM and DiT do, whatever it is shown like."""
    content = io.BytesIO(picture.read())
    image = read_plain(content) if plain else read_rgb(content)
    return np.asarray(centre_crop(_large_enough(image, smallest), size))


def read_plain(source: IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image(source) as file:
            file.load()
            return _large_enough(file if file.mode == "RGB" else file.convert("RGB"))


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """Whatever it is named: a picture of a known format, and of a bounded number of pixels."""
    try:
        return Image.open(source, formats=FORMATS)
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
        with open_image(source) as file:
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
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    # Pillow resizes rows, then columns: of these the centre's are enough, for the same bits.
    image = image.resize((shape[0], image.height), Image.Resampling.BICUBIC)
    image = image.crop((left, 0, left + size, image.height))
    image = image.resize((size, shape[1]), Image.Resampling.BICUBIC)
    return image.crop((0, top, size, top + size))
