"""What has become of every run, read from its files, and from sacct and squeue once a minute at
most: nobody who trains is asked or disturbed.

Whatever stands in a run folder, whole, half-written or foreign, is an answer and never an error:
people look when something has gone wrong.
"""

import fcntl
import os
import re
import shutil
import socket
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2it.config import paths
from d2it.config.documents import told
from d2it.config.run import Run, runs_of
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.jobs.slurm import Accounting, accounting, jobs_of
from d2it.runs.lease import HEARTBEAT, SILENCE

TAIL = 64 * 1024  # bytes of a log in which its last lines are looked for
RUN_FOLDER = re.compile(r"(.+)-[0-9a-f]{8}")
LINE = re.compile(rb'"images": (\d+).*?"images_per_second": ([\d.]+)')
TOLD = re.compile(r"(\d+)/(\d+) images")
ERROR = re.compile(r"^(?:d2it: |.{19} )error: (.+)$", re.MULTILINE)


Accounts = dict[str, Accounting]


@dataclass(frozen=True)
class Status:
    """One run. None: not known, or not of its state."""

    run: str
    kind: str | None  # None: of another scale or other settings
    folder: str
    # not begun, waiting, pending, starting, running, stopped, failed, finished, published
    state: str
    node: str | None = None
    job: str | None = None  # the last Slurm job that was submitted for it
    images: int = 0  # seen; of a run that does not run, those of its last saved state
    of: int | None = None
    images_per_second: float | None = None
    last_rate: float | None = None  # the same, of a run that does not run too
    seconds_left: float | None = None
    gpu_hours: float | None = None
    waits_for: str | None = None  # the file that must be made first
    error: str | None = None  # the sentence that ended it

    @property
    def share(self) -> float | None:
        return min(1.0, self.images / self.of) if self.of else None


def statuses(config: Config) -> list[Status]:
    """The runs of the scale, by kind, then every other run folder."""
    folders = _folders()
    accounts = known_to_slurm([job for folder in folders for job in jobs_of(folder)])
    mine = [_of_scale(run, accounts) for run in runs_of(config).values()]
    known = {status.folder for status in mine}
    return mine + [_foreign(folder, accounts) for folder in folders if folder.name not in known]


def _folders() -> list[Path]:
    try:
        found = sorted(paths.runs_folder().iterdir())
    except OSError:
        return []
    return [path for path in found if RUN_FOLDER.fullmatch(path.name) and path.is_dir()]


def known_to_slurm(jobs: Sequence[str]) -> Accounts:
    """What Slurm knows of every job, where there is Slurm; it is asked once a minute at most."""
    if not jobs or shutil.which("sacct") is None:
        return {}
    try:
        return accounting(jobs)
    except (UserError, OSError, ValueError, KeyError, TypeError):  # of damaged records
        return {}


def _of_scale(run: Run, accounts: Accounts) -> Status:
    of, folder = run.images, run.folder
    header = _table(run.model / "model.json")
    if header.get("recipe_digest") == run.digest and header.get("images") == of:
        facts = _facts(folder, of, accounts) | {"state": "published", "images": of, "error": None}
    else:
        log = Path("logs", run.config.name, "train", f"{run.name}.log")  # of Snakemake
        facts = _facts(folder, of, accounts, log)
        if facts["state"] == "not begun":
            needed = _input(run)
            if not needed.is_file():
                facts |= {"state": "waiting", "waits_for": needed.as_posix()}
    return Status(run=run.name, kind=run.kind, folder=folder.name, **facts)


def _foreign(folder: Path, accounts: Accounts) -> Status:
    """Of a folder whose settings are not asked for now: its own log says how long it was to be."""
    match, told = RUN_FOLDER.fullmatch(folder.name), TOLD.findall(_tail(folder / "log.txt"))
    of = int(told[-1][1]) if told else None
    name = match[1] if match else folder.name
    return Status(run=name, kind=None, folder=folder.name, **_facts(folder, of, accounts))


def _input(run: Run) -> Path:
    """The file that training asks for first; see d2it/runs/plan.py."""
    folder = paths.images(run.config, run.data) if run.kind == "dvae" else run.latents
    return folder / "manifest.json"


def _facts(
    folder: Path, of: int | None, accounts: Accounts, log: Path | None = None
) -> dict[str, Any]:
    """Everything that a run folder tells, and Slurm of its jobs."""
    lines = _lines(folder / "metrics.jsonl")
    header = _table(folder / "provenance.json")
    starts = [start for start in _list(header.get("starts")) if _is_start(start)]
    done = _table(folder / "done.json").get("images")
    done = done if isinstance(done, int) else None
    holder, jobs = _holder(folder), jobs_of(folder)
    account = accounts.get(jobs[-1]) if jobs else None
    waits = account is not None and account.live and not holder
    error = None if holder or waits else _error(folder, log) or _slurms(jobs, account)
    node = holder or (starts[-1]["host"] if starts and not waits else None)
    if account is not None and account.nodes and (account.live or not holder):
        node = account.nodes  # all of the job's, by Slurm's names
    facts: dict[str, Any] = {
        "of": of or done,
        "node": node,
        "job": jobs[-1] if jobs else None,
        "images": lines[-1][0] if holder and lines else _saved(folder / "state"),
        "last_rate": lines[-1][1] or None if lines else None,
        "gpu_hours": _accounted(jobs, accounts) or gpu_hours(lines, starts),
    }
    if holder:
        facts["state"] = "running"
        facts |= _pace(folder / "metrics.jsonl", lines, of)
    elif done is not None and done == (of or done):
        facts |= {"state": "finished", "images": done}
    elif account is not None and waits:
        started = account.state.startswith("RUNNING")
        facts["state"] = "starting" if started else "pending"
        facts["waits_for"] = None if started else account.reason or None
    elif error:
        facts |= {"state": "failed", "error": error}
    elif starts or lines:
        facts["state"] = "stopped"
    else:
        facts["state"] = "pending" if jobs and account is None else "not begun"
    return facts


def _slurms(jobs: Sequence[str], account: Accounting | None) -> str | None:
    """A sentence for a job that ended badly without leaving one of its own."""
    ended_well = ("COMPLETED", "CANCELLED", "PREEMPTED", "GONE")
    if account is None or account.live or account.state.startswith(ended_well):
        return None
    return f"Slurm job {jobs[-1]} {account}."


def _accounted(jobs: Sequence[str], accounts: Accounts) -> float | None:
    """GPU-hours of all jobs of a run; None where Slurm does not know every one."""
    known = [accounts[job] for job in jobs if job in accounts]
    hours = [job.elapsed * job.gpus / 3600 for job in known if job.elapsed is not None]
    return sum(hours) if len(hours) == len(jobs) else None


def _pace(path: Path, lines: Sequence[tuple[int, float]], of: int | None) -> dict[str, float]:
    """Images a second by the last line, and what is left since it was written."""
    if not lines or lines[-1][1] <= 0:
        return {}
    images, rate = lines[-1]
    pace = {"images_per_second": rate}
    if of:
        since = time.time() - path.stat().st_mtime
        pace["seconds_left"] = max(0.0, (of - images) / rate - max(0.0, since))
    return pace


def gpu_hours(lines: Sequence[tuple[int, float]], starts: Sequence[dict[str, Any]]) -> float | None:
    """GPU-hours that training took, by its own log; None: no GPU took part.

    What a kill cost is not in it: those lines were written again.
    """
    if not any(start["device"] != "cpu" for start in starts):
        return None
    standing: list[dict[str, Any]] = []  # starts whose lines no later start wrote again
    for start in starts:
        while standing and standing[-1]["images"] >= start["images"]:
            standing.pop()
        standing.append(start)
    first = [start["images"] for start in standing]
    hours, before = 0.0, 0
    for images, rate in lines:
        place = bisect_left(first, images) - 1
        if place >= 0 and standing[place]["device"] != "cpu" and rate > 0 and images > before:
            hours += (images - before) / rate * standing[place]["processes"] / 3600
        before = images
    return hours


def _holder(folder: Path) -> str | None:
    """The host that trains in `folder` now: it holds the lock, or its heart was heard lately."""
    beat = _table(folder / "heartbeat.json")
    if not isinstance(beat.get("host"), str) or not isinstance(beat.get("time"), (int, float)):
        return None
    host: str = beat["host"]
    if host == socket.gethostname():
        return host if _locked(folder / "lock") else None
    return host if time.time() - beat["time"] < SILENCE * HEARTBEAT else None


def _locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock; asking for a share of it harms nobody."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _error(folder: Path, log: Path | None) -> str | None:
    """The sentence that ended the last attempt: of its own log, or of Snakemake's if that is newer.

    A later line in the log of the run means that a later attempt went on.
    """
    own, last = folder / "log.txt", _tail(folder / "log.txt").strip().rpartition("\n")[2]
    found = ERROR.findall(last)
    if log is not None and modified(log) >= modified(own):
        found = ERROR.findall(_tail(log)) or found
    return found[-1] if found else None


def modified(path: Path) -> float:
    """When; 0: it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _saved(state: Path) -> int:
    """Images of the newest saved state; whether it is sound, training will see."""
    try:
        names = [path.name for path in state.iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _lines(path: Path) -> list[tuple[int, float]]:
    """Images seen and images a second of every whole line: a week of training has many."""
    try:
        return [(int(images), float(rate)) for images, rate in LINE.findall(path.read_bytes())]
    except (OSError, ValueError):
        return []


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _table(path: Path) -> dict[str, Any]:
    return told(dict[str, Any], path) or {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_start(value: Any) -> bool:
    """Whether an entry of provenance.json is what runs/record.py writes."""
    types = {"host": str, "device": str, "processes": int, "images": int}
    return isinstance(value, dict) and all(isinstance(value.get(k), t) for k, t in types.items())
