"""Two hundred and more spoilt files through the real command: packed rightly or named, no more."""

import csv
import io
import os
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageOps

from d2it.images.packed import PackedImages
from tests.commands import command
from tests.test_prepare import tree

SIZE = 32


def picture(mode: str = "RGB", shape: tuple[int, int] = (50, 40), seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize(shape, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sound() -> Iterator[tuple[str, bytes]]:
    """Unusual, but each shows a picture."""
    for i, mode in enumerate(("1", "L", "P", "RGB", "RGBA", "LA", "I;16")):
        image = picture("RGB", seed=i)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        yield (
            f"mode-{mode.replace(';', '')}.png",
            encoded(image if mode == "I;16" else image.convert(mode), "PNG"),
        )
    yield "cmyk.jpg", encoded(picture("CMYK"), "JPEG")
    yield "grey.jpg", encoded(picture("L"), "JPEG")
    yield "clear.png", encoded(picture("P", seed=3), "PNG", transparency=7)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"turn-{turn}.jpg", encoded(picture(seed=turn), "JPEG", exif=exif)
    frames = [picture(seed=i) for i in range(20, 23)]
    for kind in ("gif", "webp", "tiff"):
        yield f"frames.{kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    yield "wide.png", encoded(picture(shape=(3000, 9)), "PNG")
    yield "tall.png", encoded(picture(shape=(9, 3000)), "PNG")
    yield "large.jpg", encoded(picture(shape=(4000, 3000)), "JPEG")
    yield "misnamed.png", encoded(picture(seed=5), "JPEG")
    yield "SHOUTED.JPG", encoded(picture(seed=6), "JPEG")
    yield "progressive.jpg", encoded(picture(seed=7), "JPEG", progressive=True)
    yield "odd \n\t\"',;&|$(x) ï¿½ \u202e 日本.png", encoded(picture(seed=8), "PNG")
    yield os.fsdecode(b"not-utf8-\xff\xfe.png"), encoded(picture(seed=9), "PNG")
    yield "copy.png", encoded(picture(seed=9), "PNG")
    yield "-rf.png", encoded(picture(seed=10), "PNG")


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def part(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = part(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + rows + part(b"IEND", b"")


def hopeless() -> Iterator[tuple[str, bytes]]:
    """Nothing to be shown."""
    yield "empty.jpg", b""
    yield "text.jpg", b"This is no picture.\n"
    yield "page.png", b"<html><body>404 Not Found</body></html>"
    yield "dot.png", encoded(Image.new("RGB", (1, 1)), "PNG")
    yield "strip.png", encoded(picture(shape=(600_000, 8)), "PNG")
    yield "bomb.png", bomb()
    yield "float.tiff", encoded(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF")
    yield "zeros.webp", bytes(1000)
    yield "archive.gif", b"PK\x03\x04" + bytes(100)


def spoilt() -> Iterator[tuple[str, bytes]]:
    """Cut short or with flipped bits at random places; some still decode, to something."""
    rng = random.Random(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(picture(seed=30, shape=(70, 60)), kind)
        for i in range(15):
            yield f"cut-{i:02d}.{kind.lower()}", whole[: rng.randrange(len(whole))]
        for i in range(15):
            content = bytearray(whole)
            for _ in range(1 + i % 5):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            yield f"flip-{i:02d}.{kind.lower()}", bytes(content)


def expected(content: bytes) -> np.ndarray | None:
    """The picture as Pillow shows it, cropped as ADM does: written down a second time, plainly."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        if image.mode == "I;16":
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
            paper.alpha_composite(image)
            image = paper
        image = image.convert("RGB")
    except Exception:
        return None
    while min(image.size) >= 2 * SIZE:
        image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
    scale = SIZE / min(image.size)
    image = image.resize(
        tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(image)
    top, left = ((side - SIZE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + SIZE, left : left + SIZE]


def prepare(settings: dict, source: Path, cwd: Path, **changes: object):
    data = settings["data"]["photos"] | {
        "source": str(source),
        "size": SIZE,
        "crop": [1.0, 1.0],
        "train": None,
        "test": 0,
        "classes": 0,
    }
    composed = settings | {"data": settings["data"] | {"photos": data | changes}}
    (cwd / "params.yaml").write_text(yaml.safe_dump(composed))
    words = ["prepare", "photos", "--params", "params.yaml"]
    return command(*words, cwd=cwd)


def test_every_file_is_packed_rightly_or_named(params, tmp_path):
    good, bad, torn = dict(sound()), dict(hopeless()), dict(spoilt())
    files = good | bad | torn
    assert len(files) >= 200
    source = tmp_path / "mine"
    for name, content in files.items():
        (source / "a").mkdir(parents=True, exist_ok=True)
        (source / "a" / name).write_bytes(content)
    (source / "a" / "loop").symlink_to(source)
    (source / "a" / "nowhere.png").symlink_to("gone.png")
    os.mkfifo(source / "a" / "pipe.png")
    work = tmp_path / "work"
    work.mkdir()

    refused = prepare(params, source, work)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert refused.stderr.startswith("d2it: error: Cannot read ")
    assert refused.stderr.count("\n") == 1
    report = work / "data/demo/photos/problems.csv"
    assert [p for p in tree(work) if Path(p).suffix] == [
        "data/demo/photos/problems.csv",
        "params.yaml",
    ]

    done = prepare(params, source, work, damaged=len(files))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    with open(report, newline="") as table:
        rows = list(csv.DictReader(table))
    named = {row["file"].removeprefix(f"{source}/a/"): row["problem"] for row in rows}
    assert all(named.values())
    twice = {name for name, problem in named.items() if problem.startswith("the same pixels as")}
    left_out = named.keys() - twice
    assert twice & {"copy.png", "not-utf8-\\udcff\\udcfe.png"}

    def plain(name: str) -> str:
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)

    assert {plain(name) for name in bad} | {"nowhere.png"} <= left_out
    assert not left_out & {plain(name) for name in good}
    packed = [name for name in sorted(files) if plain(name) not in left_out]
    images = PackedImages.open(work / "data/demo/photos/images", "train")
    assert len(images) == len(packed)
    for pixels, name in zip(images[np.arange(len(packed))], packed, strict=True):
        assert np.array_equal(pixels, expected(files[name])), name
    for name in torn.keys() & {name for name in torn if name in left_out}:
        shown = expected(torn[name])
        assert shown is None or "too" in named[name] or "float" in named[name], name


def test_what_may_not_be_read_is_named(params, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    for i in range(3):
        (source / f"{i}.png").write_bytes(encoded(picture(seed=i), "PNG"))
    (source / "1.png").chmod(0)
    may = os.access(source / "1.png", os.R_OK)  # root may read everything
    done = prepare(params, source, tmp_path)
    assert done.returncode == (0 if may else 2) and "Traceback" not in done.stderr
    assert may or "1.png" in done.stderr
