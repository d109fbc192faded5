"""Files that are either whole or absent: atomic writes, digests, manifests."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypedDict

from tqdm import tqdm

from d2it.errors import SETTINGS, UserError

MANIFEST = "manifest.json"
FOLDER = ("d2it-folder", 1)  # format and version of one that names files alone
SEAL = "content_sha256"  # of a JSON table's other entries, in it


class File(TypedDict):
    """What a manifest says of a file."""

    bytes: int
    sha256: str


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
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, but a file belongs there: move it away and run the same "
                "command again."
            )
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


def save_by_umask(
    save: Callable[..., None], tensors: Any, path: Path, metadata: dict[str, str] | None = None
) -> None:
    """safetensors' `save`, to a file that the umask opens to a group: it makes it the owner's."""
    path.touch()
    mode = path.stat().st_mode
    save(tensors, path, metadata)
    path.chmod(mode)


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
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: make it with `{made_by}{SETTINGS}`.") from None
    except (ValueError, RecursionError, IsADirectoryError):
        raise damaged(path, made_by) from None


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def damaged(path: Path | str, made_by: str, why: str = "") -> UserError:
    """The sentence for a file that is not as it was written."""
    told = f" ({why})" if why else ""
    return UserError(
        f"{path} is damaged{told}: delete it and make it again with `{made_by}{SETTINGS}`."
    )


def read_bounded(path: Path, most: int) -> bytes:
    """What a stranger put at `path`, if it is a file of at most `most` bytes."""
    if not path.is_file():
        raise UserError("there is no such file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"it has more than {most} bytes")
    return content


def write_sealed(path: Path | str, value: dict[str, Any]) -> None:
    """A JSON table with a digest of all that it says, for `read_sealed`."""
    said = json.loads(json.dumps(value))
    write_json(path, said | {SEAL: canonical_digest(said)})


def read_sealed(path: Path | str, *, made_by: str) -> dict[str, Any]:
    """A JSON table as it was written. Evaluations hold no digest, for which provenance holds it,
    nor does what was written before there were any.
    """
    value = read_json(path, made_by=made_by)
    if not isinstance(value, dict):
        raise damaged(path, made_by)
    digest = value.pop(SEAL, None)
    if digest is not None and digest != canonical_digest(value):
        raise damaged(path, made_by)
    return value


def write_format(path: Path | str, format: str, version: int, content: dict[str, Any]) -> None:
    """A JSON header that `read_format` reads."""
    write_sealed(path, {"format": format, "version": version, **content})


def read_format(path: Path | str, format: str, version: int, *, made_by: str) -> dict[str, Any]:
    """A JSON header whose `format` and `version` are those that this code reads."""
    value = read_sealed(path, made_by=made_by)
    found = (value.get("format"), value.get("version"))
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


def seal_folder(folder: Path) -> None:
    """Write the digests of a folder's files into its manifest, for `is_intact`."""
    write_format(folder / MANIFEST, *FOLDER, {"files": folder_files(folder)})


def is_intact(folder: Path) -> bool:
    """Whether the folder holds what its manifest names; so does one from before it had any."""
    if not (folder / MANIFEST).exists():
        return folder.is_dir()
    try:
        named = read_format(folder / MANIFEST, *FOLDER, made_by="d2it")["files"]
        known = {name: entry["sha256"] for name, entry in named.items()}
    except (UserError, AttributeError, KeyError, TypeError):  # of a manifest that is none
        return False
    return all(
        (folder / name).is_file() and file_digest(folder / name) == sha256
        for name, sha256 in known.items()
    )


def folder_files(folder: Path) -> dict[str, File]:
    """Size and sha256 of every file below `folder` but its manifest, by relative name."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
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
