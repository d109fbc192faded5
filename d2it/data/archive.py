"""Where pictures lie: folders, zips and tars, read in place. Nothing is unpacked."""

import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from d2it.errors import UserError
from d2it.files import read_format, write_text

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif"}
ARCHIVES = {".zip", ".tar"}
INDEX, INDEX_VERSION = "d2it-tar-index", 1


class Picture(NamedTuple):
    """An image file in a folder or an archive; small, since there may be a million."""

    container: str  # the folder or archive
    name: str  # path within it, with slashes
    size: int  # bytes
    offset: int = 0  # of the first byte in a tar

    def read(self) -> bytes:
        kind = Path(self.container).suffix.lower()
        if kind == ".tar":
            return os.pread(_open_tar(self.container), self.size, self.offset)
        if kind == ".zip" and os.path.isfile(self.container):
            return _open_zip(self.container).read(self.name)
        return Path(self.container, self.name).read_bytes()

    def __str__(self) -> str:
        return f"{self.container}/{self.name}"


@lru_cache(maxsize=8)
def _open_tar(path: str) -> int:
    return os.open(path, os.O_RDONLY)


@lru_cache(maxsize=8)
def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def list_pictures(source: Path) -> list[Picture]:
    """Every image of a folder or archive, in the order of its name; hidden ones are left out.

    A folder without images of its own stands for the archives in it.
    """
    if not source.is_dir():
        return _in_order(_in_archive(source))
    archives = sorted(p for p in source.iterdir() if p.suffix.lower() in ARCHIVES and p.is_file())
    found = _in_order(_in_folder(source))
    return found or _in_order([picture for path in archives for picture in _in_archive(path)])


def _in_order(pictures: list[Picture]) -> list[Picture]:
    """Sorted folder by folder: the same for a folder and for an archive of it."""
    return sorted(pictures, key=lambda picture: picture.name.split("/"))


def is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _in_folder(folder: Path) -> list[Picture]:
    """Links to folders are followed, but into none of the folders that they lie in."""

    def walk(path: str, above: frozenset[tuple[int, int]]) -> Iterator[Picture]:
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in os.scandir(path):
            name = os.path.relpath(entry.path, folder)
            if entry.is_dir():
                if not entry.name.startswith("."):
                    yield from walk(entry.path, above | {here})
            elif is_picture(name):
                broken = entry.is_symlink() and not os.path.exists(entry.path)
                if broken or entry.is_file():  # reading a broken link says what is wrong
                    yield Picture(str(folder), name, 0 if broken else entry.stat().st_size)

    return list(walk(str(folder), frozenset()))


def _in_archive(path: Path) -> list[Picture]:
    try:
        if path.suffix.lower() == ".tar":
            members = _tar_index(path)
        else:
            members = [(m.filename, m.file_size, 0) for m in _open_zip(str(path)).infolist()]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} is damaged or no plain {path.suffix[1:]} file ({error}): get it again, or "
            "unpack its compression."
        ) from None
    return [Picture(str(path), *member) for member in members if is_picture(member[0])]


def _tar_index(path: Path) -> list[tuple[str, int, int]]:
    """(name, size, offset) of every file in a tar, kept beside it: finding them reads it all."""
    status, index = path.stat(), path.with_name(f".{path.name}.index.json")
    header = {
        "format": INDEX,
        "version": INDEX_VERSION,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    with suppress(UserError):
        stored = read_format(index, INDEX, INDEX_VERSION, made_by="d2it prepare")
        if all(stored.get(key) == value for key, value in header.items()):
            return [(name, size, offset) for name, size, offset in stored["members"]]
    with open(path, "rb") as file:
        found = _members(file, "", 0)
        members = list(tqdm(found, unit="file", desc=f"list {path.name}", delay=5, disable=None))
    with suppress(OSError):  # in a folder of somebody else's, each command reads the tar
        write_text(index, json.dumps(header | {"members": members}))
    return members


def _members(file: IO[bytes], folder: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Files of the tar in `file`, whose byte 0 is byte `start` of the outermost archive.

    A tar in a tar is a folder of its name, as ILSVRC-2012 holds a tar for every class.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # a million would take gigabytes
            if member.islnk() and is_picture(member.name):
                raise tarfile.TarError(f"{member.name} is a link: pack it with --hard-dereference")
            if not member.isfile():
                continue
            name, offset = folder + member.name.removeprefix("./"), start + member.offset_data
            if name.lower().endswith(".tar"):
                inner = archive.extractfile(member)
                assert inner is not None  # it is a file
                yield from _members(inner, name[: -len(".tar")] + "/", offset)
            else:
                yield name, member.size, offset
