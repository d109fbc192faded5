"""Files that are either whole or absent: atomic writes, digests, manifests."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from d2it.errors import SETTINGS, UserError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`, renamed onto it only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkdtemp, whose 0o700 shuts out a research group: umask and setgid bit rule here.
    mark = secrets.token_hex(4)
    temporary, old = (path.with_name(f".{path.name}.{mark}.{end}") for end in ("part", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old.mkdir()
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it is gone, or holds what could not be deleted
            old.rmdir()


def remove_folder(path: Path) -> None:
    """At once, if it is there: who looks meanwhile sees all of it or nothing."""
    gone = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    with suppress(FileNotFoundError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def locked(path: Path | str) -> Iterator[IO[str]]:
    """Hold the lock file `path`, once nobody else on this machine does. kill -9 lets it go."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def write_bytes(path: Path | str, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str, *, made_by: str) -> Any:
    """The JSON in `path`; `made_by` is the command that a user runs when it is missing."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: make it with `{made_by}{SETTINGS}`.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(
            f"{path} is damaged: delete it and make it again with `{made_by}{SETTINGS}`."
        ) from None


def read_format(path: Path | str, format: str, version: int, *, made_by: str) -> dict[str, Any]:
    """A JSON header whose `format` and `version` are those that this code reads."""
    value = read_json(path, made_by=made_by)
    found = (value.get("format"), value.get("version")) if isinstance(value, dict) else None
    if found != (format, version):
        raise UserError(
            f"{path} holds {found}, but this version of d2it reads {(format, version)}: "
            f"make it again with `{made_by}{SETTINGS}`."
        )
    return value


def canonical_digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(path: Path | str, checksum: str) -> bool:
    """Whether the file has this sha256 or, spelt `md5:...`, this MD5: some publish no other."""
    algorithm, _, digest = checksum.rpartition(":")
    found = hashlib.new(algorithm or "sha256")
    with (
        open(path, "rb") as file,
        tqdm(
            total=os.fstat(file.fileno()).st_size,
            unit="B",
            unit_scale=True,
            desc=f"check {Path(path).name}",
            delay=5,  # of ImageNet's 148 GB alone
            disable=None,
        ) as bar,
    ):
        while block := file.read(1 << 20):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest() == digest


def folder_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below `folder` but its manifest, by relative name."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def require_space(folder: Path | str, needed: int) -> None:
    """Stop before work that would fill the disk."""
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.2f} GB free but {needed / 1e9:.2f} GB are needed: "
            "free some space and run the same command again."
        )
