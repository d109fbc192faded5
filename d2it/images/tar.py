"""Where in a tar its pictures lie, and the labels that WebDataset puts beside them."""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypedDict

from tqdm import tqdm

from d2it.config.documents import told_in
from d2it.errors import UserError
from d2it.files import SEAL, canonical_digest, read_format, write_text
from d2it.images.names import is_hidden, is_picture

INDEX, INDEX_VERSION = "d2it-tar-index", 4
DEEPEST = 4  # tars in a tar
SMALL = 2**16  # bytes of a file with a label, at most


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    size: int
    offset: int  # of its first byte
    label: int | None = None


class Described(TypedDict):
    """WebDataset's .json beside a picture, as far as it counts."""

    label: int


def read_member(path: str, size: int, offset: int) -> bytes:
    return os.pread(_open(path).fileno(), size, offset)


@lru_cache(maxsize=8)
def _open(path: str) -> IO[bytes]:  # closes itself when it is forgotten
    return open(path, "rb", buffering=0)


def list_tar(path: Path) -> list[Member]:
    """Every picture, kept in a file beside the tar: finding them takes reading all of it."""
    status, index = path.stat(), path.with_name(f".{path.name}.index.json")
    header = {
        "format": INDEX,
        "version": INDEX_VERSION,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    if (stored := _stored(index, header, status.st_size)) is not None:
        return stored
    with open(path, "rb") as file:
        found = _members(file)
        bar = tqdm(found, unit="file", desc=f"list {path.name}", delay=5, disable=None)
        pictures = _labelled(path, bar)
    with suppress(OSError):  # in a folder of somebody else's, each command reads the tar
        said = header | {"pictures": pictures}
        write_text(index, json.dumps(said | {SEAL: canonical_digest(said)}))
    return pictures


def _stored(index: Path, header: dict[str, Any], size: int) -> list[Member] | None:
    """What an index says; None where it is damaged, or could not be of this very tar."""
    with suppress(OSError, UserError, KeyError, TypeError):
        if index.stat().st_size <= size:  # or it would fill the memory
            said = read_format(index, INDEX, INDEX_VERSION, made_by="d2it prepare")
            pictures = [Member(*picture) for picture in said["pictures"]]
            same = all(said[key] == value for key, value in header.items())
            return pictures if same and all(_is_within(size, *one) for one in pictures) else None
    return None


def _is_within(tar: int, name: str, size: int, offset: int, label: int | None) -> bool:
    """Whether it can be a picture of a tar of so many bytes."""
    numbers = (size, offset, label or 0)
    whole = all(type(number) is int and number >= 0 for number in numbers)
    return whole and offset + size <= tar and is_picture(name)


def _members(file: IO[bytes], folder: str = "", start: int = 0, depth: int = 0) -> Iterator[Member]:
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
                if depth == DEEPEST:
                    raise tarfile.TarError(f"tars lie in tars, {name} too deep")
                inner = archive.extractfile(member)
                assert inner is not None  # it is a file
                yield from _members(inner, name[: -len(".tar")] + "/", offset, depth + 1)
            else:
                yield Member(name, member.size, offset)


def _labelled(path: Path, members: Iterable[Member]) -> list[Member]:
    """The pictures, each with the number in the .cls or .json of its name, if there is one."""
    pictures, labels = [], dict[str, int | None]()
    for member in members:
        stem, _, ending = member.name.rpartition(".")
        if is_picture(member.name):
            pictures.append(member)
        elif ending in ("cls", "json") and member.size <= SMALL and not is_hidden(member.name):
            content = read_member(str(path), member.size, member.offset)
            if ending == "cls":
                labels[stem] = _number(content)
            else:
                labels.setdefault(stem, _described(content))
    whole = {member.name.rpartition(".")[0] for member in pictures}
    kept = []
    for member in pictures:
        stem, key = member.name.rpartition(".")[0], _sample(member.name)
        if stem not in labels and key in labels and key in whole:
            continue  # 7.mask.png, beside 7.jpg and 7.cls
        kept.append(member._replace(label=labels.get(stem, labels.get(key))))
    return kept


def _sample(name: str) -> str:
    """What the files of a sample have in common, WebDataset's key: all before the first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _number(content: bytes) -> int | None:
    """None where it is not known (-1), or no label at all: a .cls may be anything."""
    with suppress(ValueError):
        return number if (number := int(content)) >= 0 else None
    return None


def _described(content: bytes) -> int | None:
    """The label among other things, of which there may be anything."""
    found = told_in(Described, content)
    return found["label"] if found and found["label"] >= 0 else None
