"""Tables kept in git on which numbers rest, each as the SHA256SUMS beside it has it."""

from pathlib import Path

from d2it.config.paths import in_repository
from d2it.errors import UserError
from d2it.files import file_digest

SUMS = "SHA256SUMS"


def listed(name: str) -> Path:
    """The table, e.g. data/published/table_2.csv, once its sha256 is seen to be the listed one."""
    path = in_repository(name)
    if not is_listed(path):
        raise UserError(
            f"{path} is not as it was written (its sha256 is not the one in {path.with_name(SUMS)})"
            f": restore both with {restoring(path, path.with_name(SUMS))}, or install d2it again."
        )
    return path


def unlisted(folder: Path) -> list[str]:
    """Names of a folder's tables that are not as its list has them."""
    names = {path.name for path in folder.glob("*.csv")} | _sums(folder).keys()
    return sorted(name for name in names if not is_listed(folder / name))


def is_listed(path: Path) -> bool:
    return path.is_file() and file_digest(path) == _sums(path.parent).get(path.name)


def restoring(*paths: Path) -> str:
    """The command that does, in a checkout."""
    return f"`git checkout -- {' '.join(map(str, paths))}`"


def _sums(folder: Path) -> dict[str, str]:
    """sha256 by name."""
    try:
        text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (s.partition("  ") for s in text.splitlines())}
