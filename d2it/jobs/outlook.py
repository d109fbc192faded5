"""What is left of a study: the time that its trainings need, and the arrays of jobs at work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from d2it.config import paths
from d2it.jobs import slurm
from d2it.jobs.status import Status, known_to_slurm

OVER = ("finished", "published")


@dataclass(frozen=True)
class Left:
    """Of training, one run after another; on a cluster several run at a time."""

    seconds: float  # at the rates so far: a run's own, else the median of its kind
    unmeasured: int  # runs that are not in it, since none of their kind was ever begun


@dataclass(frozen=True)
class Array:
    """Jobs that compute shares of a stage, or put them together."""

    command: str  # e.g. "evaluate dit_b"
    job: str
    parts: int
    states: dict[str, int]  # Slurm's words for its jobs, and how many are in each


def left(found: Sequence[Status]) -> Left:
    mine = {status.folder: status for status in found if status.kind}  # names may share a run
    rates: dict[str | None, list[float]] = {}
    for status in mine.values():
        if status.last_rate:
            rates.setdefault(status.kind, []).append(status.last_rate)
    seconds, unmeasured = 0.0, 0
    for status in mine.values():
        rate = status.last_rate or (median(rates[status.kind]) if status.kind in rates else None)
        if status.state in OVER or status.of is None:
            continue
        if rate is None:
            unmeasured += 1
        else:
            seconds += max(0, status.of - status.images) / rate
    return Left(seconds, unmeasured)


def arrays() -> list[Array]:
    """Those in runs/.arrays/: a stage that has ended well leaves nothing there."""
    folders = sorted(paths.runs_folder().glob(".arrays/*"))
    last = [entry for folder in folders for entry in slurm.recorded(folder)[-1:]]
    jobs = [slurm.ids(entry["job"], entry.get("parts", 1)) for entry in last]
    known = known_to_slurm([job for ids in jobs for job in ids])
    found = []
    for entry, ids in zip(last, jobs, strict=True):
        states = Counter(known[job].now(nodes=False) for job in ids if job in known)
        who = entry.get("who", "a stage")
        found.append(Array(who, entry["job"], len(ids), dict(states)))
    return found
