"""Where pictures lie: folders, zips, tars and parquet files, read in place. Nothing is unpacked."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from d2it.errors import UserError
from d2it.images import parquet
from d2it.images.names import ARCHIVES, is_parquet, is_picture, part_of
from d2it.images.tar import list_tar, read_member

MOST = 2**28  # bytes of an image file


class Picture(NamedTuple):
    """An image file in a folder or an archive; small, since there may be a million."""

    container: str  # the folder or archive
    name: str  # path within it, with slashes
    size: int  # bytes
    place: int = 0  # in a tar its first byte, in a zip its number, in a parquet file its row
    label: int | None = None  # the class's number, where the archive says it

    def read(self) -> bytes:
        kind = os.path.splitext(self.container)[1].lower()
        if kind in ARCHIVES and os.path.isfile(self.container):
            if is_parquet(self.container):
                content = parquet.read_image(self.container, self.place)
                _check_size(content.size)
                return content.to_pybytes()
            _check_size(self.size)
            if kind == ".tar":
                return read_member(self.container, self.size, self.place)
            archive = _open_zip(self.container)
            return archive.read(archive.infolist()[self.place])
        _check_size(self.size)
        with open(f"{self.container}/{self.name}", "rb") as file:
            return file.read()

    def __str__(self) -> str:
        return f"{self.container}/{self.name}"


def _check_size(size: int) -> None:
    """A few bytes of an archive may hold terabytes of zeros."""
    if size > MOST:
        raise ValueError(f"it has {size / 1e6:.0f} MB, more than any image")


@lru_cache(maxsize=8)
def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def list_pictures(source: Path) -> list[Picture]:
    """Every image of a folder or archive, in the order of its name; hidden ones are left out.

    A folder without images of its own stands for the archives in it, one after the other. Where
    their paths say of which part they are, and some are of `train`, these are folders in the names.
    """
    if not source.is_dir():
        return _in_order(_in_archive(source))
    files = list(_walk(str(source)))
    found = [Picture(str(source), *file) for file in files if is_picture(file[0])]
    archives = sorted(name for name, _ in files if Path(name).suffix.lower() in ARCHIVES)
    if found and any(is_parquet(name) for name in archives):
        raise UserError(
            f"{source} holds images, such as {found[0].name}, and parquet files: name the folder "
            "of the one or of the other."
        )
    if found:  # archives beside them are what they came in
        return _in_order(found)
    parts = [part_of(name) for name in archives]
    named = "train" in parts
    for name, part in zip(archives, parts, strict=True):
        if named and part is None:
            raise UserError(
                f"{source} holds {archives[parts.index('train')]} and {name}, whose name does not "
                "say whether it is of train, val or test: name it so, or move it elsewhere."
            )
        some = _in_order(_in_archive(source / name))
        if named and not all(part in picture.name.split("/")[:-1] for picture in some):
            some = [picture._replace(name=f"{part}/{picture.name}") for picture in some]
        found += some  # archive by archive, so that reading in order keeps to few files
    return found


def _in_order(pictures: list[Picture]) -> list[Picture]:
    """Sorted folder by folder: the same for a folder and for an archive of it."""
    return sorted(pictures, key=lambda picture: picture.name.split("/"))


def _walk(root: str) -> Iterator[tuple[str, int]]:
    """(path, bytes) of every file that is not hidden.

    Links to folders are followed, but into none of the folders that they lie in.
    """

    def walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from walk(entry.path, above | {here})
                continue
            broken = entry.is_symlink() and not os.path.exists(entry.path)
            if broken or entry.is_file():  # reading a broken link says what is wrong
                yield os.path.relpath(entry.path, root), 0 if broken else entry.stat().st_size

    return walk(root, frozenset())


def _in_archive(path: Path) -> list[Picture]:
    container = str(path)
    if is_parquet(container):
        return [
            Picture(container, f"{path.stem}/{row.number:08d}", row.size, row.number, row.label)
            for row in parquet.rows(path)
        ]
    try:
        if path.suffix.lower() == ".tar":
            return [Picture(container, *member) for member in list_tar(path)]
        files = _open_zip(container).infolist()
        return [
            Picture(container, file.filename, file.file_size, place)
            for place, file in enumerate(files)
            if is_picture(file.filename)
        ]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} is damaged or no plain {path.suffix[1:]} file ({error}): get it again, or "
            "unpack its compression."
        ) from None
