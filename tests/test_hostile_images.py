"""Pictures and archives from strangers: no program runs, no memory fills, one sentence says why."""

import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2it.images.archive import MOST, list_pictures
from d2it.images.decode import FORMATS, read_rgb
from tests.commands import command

ROOT = Path(__file__).parents[1]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
BOUND = 2**29  # bytes of address space


def encoded(kind: str, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def zip_with(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_in_tars(depth: int) -> bytes:
    content = encoded("PNG")
    for level in range(depth + 1):
        entry = tarfile.TarInfo("a.tar" if level else "a.png")
        entry.size = len(content)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            archive.addfile(entry, io.BytesIO(content))
        content = buffer.getvalue()
    return content


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_of_known_formats_are_read(kind: str) -> None:
    assert read_rgb(io.BytesIO(encoded(kind))).size == (32, 32)


def test_postscript_in_a_pictures_name_runs_nothing(tmp_path: Path, monkeypatch) -> None:
    """Pillow opens EPS by running `gs`, wherever its bytes lie."""
    programs, images = tmp_path / "programs", tmp_path / "images"
    programs.mkdir()
    images.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(EPS)
    for words in (
        ["grains", "a.png"],
        ["evaluate", "--images", ".", "--reference", ".", "scale=smoke"],
        ["evaluate", "--images", "../a.zip", "--reference", ".", "scale=smoke"],
    ):
        zip_with(tmp_path / "a.zip", {"a.png": EPS, "b.png": EPS})
        done = command(*words, cwd=images)
        assert done.returncode == 2 and "no image of a known kind" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_one_place_opens_pictures() -> None:
    openings = {
        path.name: len(re.findall(r"\bImage\.open\(", path.read_text()))
        for path in sorted((ROOT / "d2it").rglob("*.py"))
    }
    assert {name for name, count in openings.items() if count} == {"decode.py"}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Archives of a few megabytes at most, whose pictures are of half a gigabyte or say so."""
    folder = tmp_path_factory.mktemp("bombs")
    zeros = zip_with(folder / "zeros.zip", {})
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("a.png", "b.png"):
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(2 * MOST // 2**22):
                    file.write(bytes(2**22))
    tar = folder / "sparse.tar"
    with open(tar, "wb") as file:
        for name in ("a.png", "b.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 2 * MOST
            file.write(entry.tobuf())
            file.seek(2 * MOST, os.SEEK_CUR)
        file.write(bytes(1024))
    loose = folder / "loose"
    loose.mkdir()
    for name in ("a.png", "b.png"):
        with open(loose / name, "wb") as file:
            file.truncate(2 * MOST)
    return [zeros, tar, loose]


def test_a_picture_of_gigabytes_is_not_read(bombs: list[Path]) -> None:
    for source in bombs:
        for picture in list_pictures(source):
            with pytest.raises(ValueError, match="it has 537 MB, more than any image"):
                picture.read()
        done = command("evaluate", "--images", str(source), "--reference", ".", cwd=source.parent)
        assert done.returncode == 2 and "more than any image" in done.stderr, done.stderr


def test_a_zip_that_lies_about_a_size_is_read_no_further(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "a.zip", {"a.png": bytes(2**22)})
    content = bytearray(path.read_bytes())
    for place in (22, content.rindex(b"PK\1\2") + 24):  # uncompressed size, in both headers
        content[place : place + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    [picture] = list_pictures(path)
    with pytest.raises(zipfile.BadZipFile):
        picture.read()


def test_pixels_of_gigabytes_are_not_decoded(tmp_path: Path) -> None:
    """A PNG of 60,000 x 60,000 px, in 33 bytes of header."""
    png = bytearray(encoded("PNG"))
    png[16:24] = struct.pack(">II", 60000, 60000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    (tmp_path / "a.png").write_bytes(png)
    done = command("grains", "a.png", cwd=tmp_path)
    assert done.returncode == 2 and "more than 179 million pixels" in done.stderr, done.stderr


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_tars_in_tars(tmp_path: Path, depth: int) -> None:
    (tmp_path / "a.tar").write_bytes(tar_in_tars(depth))
    [picture] = list_pictures(tmp_path / "a.tar")
    assert picture.read() == encoded("PNG")


@pytest.mark.parametrize("depth", [5, 400])
def test_tars_too_deep_in_tars(tmp_path: Path, depth: int) -> None:
    (tmp_path / "a.tar").write_bytes(tar_in_tars(depth))
    done = command("evaluate", "--images", "a.tar", "--reference", "a.tar", cwd=tmp_path)
    assert done.returncode == 2 and "too deep" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["encrypted", "compression"])
def test_a_zip_that_cannot_be_read(tmp_path: Path, flag: str) -> None:
    path = zip_with(tmp_path / "a.zip", {"a.png": encoded("PNG"), "b.png": encoded("PNG")})
    content = bytearray(path.read_bytes())
    for match in re.finditer(b"PK\1\2|PK\3\4", bytes(content)):
        place = match.start() + (8 if match[0] == b"PK\1\2" else 6)
        content[place + (0 if flag == "encrypted" else 2)] = 1 if flag == "encrypted" else 99
    path.write_bytes(content)
    done = command("evaluate", "--images", "a.zip", "--reference", "a.zip", cwd=tmp_path)
    assert done.returncode == 2 and "a.png cannot be read" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_it_takes_little_memory(bombs: list[Path]) -> None:
    """In a process of its own, which may take no more."""
    program = f"""
import resource
from pathlib import Path
from d2it.images.archive import list_pictures
resource.setrlimit(resource.RLIMIT_AS, ({BOUND}, {BOUND}))
for source in {[str(path) for path in bombs]}:
    for picture in list_pictures(Path(source)):
        try:
            picture.read()
        except ValueError:
            continue
        raise SystemExit(f"{{picture}} was read")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
