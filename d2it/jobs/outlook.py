"""What is left of a study: the time that its stages need, and the arrays of jobs at work."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypedDict

from d2it.config import paths
from d2it.config.documents import told
from d2it.config.recipe import digest
from d2it.config.run import Run, runs_of
from d2it.config.schema import Config
from d2it.cost.plan import price_run
from d2it.cost.rate import rate_of
from d2it.errors import UserError
from d2it.jobs import slurm
from d2it.jobs.status import Status, known_to_slurm, modified
from d2it.machine.gpus import GPUS, find_gpu
from d2it.runs.evaluations import Evaluations

OVER = ("finished", "published")


@dataclass(frozen=True)
class Left:
    """Of a stage, one run after another; on a cluster several run at a time."""

    seconds: float  # at the rates so far, see below
    unmeasured: int  # runs that are not in it, since nothing of their kind was measured


class Seconds(TypedDict):
    """seconds.json: what was computed in a run folder took so long, in one process."""

    seconds: float


class Encoded(TypedDict):
    """What is read of a manifest of latents."""

    recipe_digest: str


@dataclass(frozen=True)
class Array:
    """Jobs that compute shares of a stage, or put them together."""

    command: str  # e.g. "evaluate dit_b"
    job: str
    parts: int
    states: dict[str, int]  # Slurm's words for its jobs, and how many are in each


def left(config: Config, found: Sequence[Status]) -> dict[str, Left]:
    """By stage. What has begun and not ended counts whole, but for training."""
    runs = runs_of(config).values()
    learners = [run for run in runs if run.kind != "dvae"]
    encoders = {run.latents: run.dvae for run in learners}
    evaluated = {run.folder: run for run in runs}  # names may share a run
    return {
        "training": _training(found),
        "encoding": _rest("encode", encoders.values(), _is_encoded),
        "evaluating": _rest("evaluate", evaluated.values(), _is_evaluated),
    }


def _training(found: Sequence[Status]) -> Left:
    """At a run's own rate, else at the median of its kind."""
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


def _rest(verb: str, runs: Iterable[Run], is_made: Callable[[Run], bool]) -> Left:
    """At the seconds that what was made here has taken for its price (d2it/cost), the median of
    its kind. Prices are of some GPU: only their ratios count.
    """
    made = {run: is_made(run) for run in runs}
    hours, paces = _prices(verb, made), dict[str, list[float]]()
    for run in made:
        seconds = _seconds(verb, run)
        if made[run] and seconds and hours[run]:
            paces.setdefault(run.kind, []).append(seconds / hours[run])
    missing = [run for run in made if not made[run]]
    known = [run for run in missing if hours[run] and run.kind in paces]
    seconds = sum(hours[run] * median(paces[run.kind]) for run in known)
    return Left(seconds, len(missing) - len(known))


def _prices(verb: str, runs: Iterable[Run]) -> dict[Run, float]:
    """In hours; 0: not known, since of its images only damaged files tell."""
    rate, found = rate_of(find_gpu(next(iter(GPUS)))), {}
    for run in runs:
        try:
            found[run] = price_run(run, rate).hours.get(verb, 0.0)
        except UserError:
            found[run] = 0.0
    return found


def _seconds(verb: str, run: Run) -> float:
    """Of all its labels, as they were last computed; 0: not known."""
    at = "latents" if verb == "encode" else "evaluations/*"
    took = sorted(map(paths.took, run.folder.glob(at)), key=modified)
    last = {path.parent.name.rpartition("-")[0]: told(Seconds, path) for path in took}
    seconds = [each["seconds"] if each else 0.0 for each in last.values()]
    return sum(seconds) if all(seconds) else 0.0


def _is_encoded(dvae: Run) -> bool:
    manifest = told(Encoded, dvae.latents / "manifest.json")
    return manifest is not None and manifest["recipe_digest"] == digest(dvae.latents_recipe)


def _is_evaluated(run: Run) -> bool:
    """By any of its names: the others find it in the run folder."""
    found = [told(Evaluations, equal.evaluation) for equal in run.equals]
    asked = (run.digest, run.images)
    return any(one and (one["recipe_digest"], one["images"]) == asked for one in found)


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
