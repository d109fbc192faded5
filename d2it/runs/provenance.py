"""results/<scale>/provenance/<run>.json: which code made an evaluation, on what, in what time.

It stands beside the evaluation, whose bytes are the same wherever it is made, is read by no stage,
and is in no comparison of bytes. Made again, an evaluation of the same bytes keeps the provenance
of who made it first.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from d2it.config import paths
from d2it.config.documents import conform, told, told_in
from d2it.config.run import Run
from d2it.errors import SETTINGS, UserError
from d2it.files import file_digest, read_format, write_format
from d2it.version import __version__

FORMAT, VERSION = "d2it-provenance", 1
CODE = ("d2it", "params", "data/sources.csv")  # what decides numbers, below the root
OTHERS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # of the repository whose hook runs this


class Provenance(TypedDict):
    """What is read of it."""

    evaluation_sha256: str
    commit: str | None
    changed: bool | None
    devices: NotRequired[list[str]]
    training: dict[str, Any] | None


class Start(TypedDict):
    """Of a training: what is read of provenance.json of its folder, and of each log interval."""

    commit: str | None
    device: str
    processes: int
    processor: NotRequired[str]


class Started(TypedDict):
    starts: list[Start]


class Interval(TypedDict):
    images: int
    images_per_second: float


def record(run: Run, devices: Sequence[str] = ()) -> None:
    """Say of an evaluation that was just written how it came to be, and on what."""
    evaluation = file_digest(run.evaluation)
    known = of_run(run)
    if known is None or known["evaluation_sha256"] != evaluation:
        header: dict[str, Any] = {"run": run.name, "evaluation_sha256": evaluation}
        header |= {"commit": commit(), "changed": changed()}
        header |= {} if header["commit"] else {"d2it": __version__}  # installed
        header |= {"devices": list(devices), "training": training(run)}
        write_format(_file(run), FORMAT, VERSION, header)


def of_run(run: Run) -> dict[str, Any] | None:
    """What is recorded of the evaluation of `run`, if it is readable."""
    try:
        return _read(run)
    except UserError:
        return None


def check(run: Run) -> None:
    """Refuse an evaluation that is not the recorded one; without a record it is taken as it is."""
    if _file(run).exists() and _read(run)["evaluation_sha256"] != file_digest(run.evaluation):
        raise UserError(
            f"{run.evaluation} is not as it was written (its sha256 is not the one in "
            f"{_file(run)}): delete it and make it again with `d2it evaluate {run.name}{SETTINGS}`."
        )


def _read(run: Run) -> dict[str, Any]:
    path, made_by = _file(run), f"d2it evaluate {run.name}"
    header = read_format(path, FORMAT, VERSION, made_by=made_by)
    conform(Provenance, header, path, made_by)
    return header


def _file(run: Run) -> Path:
    return paths.provenance(run.config, run.name)


def commit() -> str | None:
    """Of this code; None: it is no checkout."""
    return _git("rev-parse", "HEAD") if _git("ls-files", "--", CODE[0]) else None


def changed() -> bool | None:
    """Whether the code differs from its commit."""
    found = _git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return None if found is None or commit() is None else bool(found)


def training(run: Run) -> dict[str, Any] | None:
    """Devices, processes and seconds, as the run folder tells them; None: it was made elsewhere."""
    folder = run.folder
    started = told(Started, folder / "provenance.json")
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [told_in(Interval, line) for line in text.splitlines()]
        seconds = round(sum(_seconds([line for line in lines if line])), 1)
    except (OSError, ValueError, ArithmeticError):
        return None
    if started is None or None in lines:
        return None
    return {
        "commits": _each(started, "commit"),
        "devices": _each(started, "device"),
        "processes": _each(started, "processes"),
        "processors": _each(started, "processor"),
        "seconds": seconds,
    }


def _each(started: Started, what: str) -> list[Any]:
    starts: list[Any] = list(started["starts"])
    return list(dict.fromkeys(start[what] for start in starts if what in start))


def _seconds(lines: list[Interval]) -> list[float]:
    """Of each log interval; the time before the first step and for saving is not in them."""
    before = [0, *(line["images"] for line in lines)]
    return [
        (line["images"] - images) / line["images_per_second"]
        for images, line in zip(before, lines, strict=False)
    ]


def _git(*words: str) -> str | None:
    """What git says of the checkout that this code is; None: it is installed somewhere, perhaps
    below a repository of somebody's own.
    """
    root = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    environment |= {"GIT_CEILING_DIRECTORIES": str(root.parent)}
    git = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(
            git, capture_output=True, encoding="utf-8", errors="replace", env=environment
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
