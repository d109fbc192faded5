"""The numbers that the paper prints: data/published/, each file as its list of sha256s has it."""

import csv
import io
from pathlib import Path

from d2it.config.paths import in_repository
from d2it.errors import UserError
from d2it.files import file_digest

SUMS = "data/published/SHA256SUMS"  # made there by `sha256sum *.csv > SHA256SUMS`


def published(name: str) -> list[dict[str, str]]:
    """Rows of data/published/<name>.csv, as printed."""
    path = in_repository(f"data/published/{name}.csv")
    if not _is_listed(path):
        raise UserError(
            f"{path} is not as it was printed (its sha256 is not the one in {SUMS}): restore it "
            f"with `git checkout -- {path}`, or install d2it again."
        )
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def as_listed() -> tuple[Path, list[str]]:
    """The folder, and the names of files that are not as its list has them."""
    folder = in_repository(SUMS).parent
    names = {path.name for path in folder.glob("*.csv")} | _sums().keys()
    return folder, sorted(name for name in names if not _is_listed(folder / name))


def _is_listed(path: Path) -> bool:
    return path.is_file() and file_digest(path) == _sums().get(path.name)


def _sums() -> dict[str, str]:
    """sha256 by name."""
    lines = in_repository(SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
