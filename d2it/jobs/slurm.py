"""What Slurm says about our jobs. Only its own programs are run; no torch, no submitit.

    queue()                    everybody's jobs that are pending or running: asks squeue, now
    live(folder)               those of a folder
    accounting(["12", "15"])   {"12": Accounting(state="RUNNING", nodes="node1", ...)}: asks sacct
                               and squeue at most once a minute for all commands that share a runs/
                               folder together, so an answer is up to a minute old; a job that was
                               not yet asked about is missing
    ids("12", 3)               ["12_0", "12_1", "12_2"], the jobs of an array of three
    record(folder, "12", 3, …)  note in the folder that an array of three was submitted for it
    jobs_of(folder)            ids of all that were ever submitted for a folder, oldest first
    with submitting(lock):     no other command, and no sbatch that outlived one, submits meanwhile

GPU-hours of a job: `elapsed * gpus / 3600`.
"""

import fcntl
import getpass
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from d2it.config.documents import told
from d2it.config.paths import runs_folder
from d2it.config.typed import build
from d2it.errors import UserError
from d2it.files import locked, write_json
from d2it.jobs.slurm_commands import NotNow, insist, refusal, run

EVERY = 60.0  # seconds between two questions to Slurm's accounting
UNDER_WAY = ("PENDING", "RUNNING", "SUSPENDED", "REQUEUED")  # sacct's states of what has not ended
ENDING = "ENDING"  # not in the queue, says squeue, but sacct does not know how it ended
LOST = 120.0  # seconds of that: a second controller, or slurmdbd, may hear late of any job
FIELDS = ("JobID", "State", "NodeList", "ElapsedRaw", "AllocTRES", "Reason", "ExitCode")
BETWEEN = "\x1f"  # squeue's fields; no path or comment has it


class Answers(TypedDict):
    """accounting.json."""

    asked: float
    jobs: dict[str, dict[str, Any]]  # of each an Accounting


class Submitted(TypedDict):
    """An entry of jobs.json."""

    job: str
    parts: NotRequired[int]
    who: NotRequired[str]


_own: dict[Path, Answers] = {}  # of Slurm, that could not be left in runs/.slurm/


@dataclass(frozen=True)
class Queued:
    """A job that squeue lists."""

    job: str  # of all parts of an array the same
    state: str  # PENDING, RUNNING, COMPLETING, ...
    user: str
    name: str  # of our jobs, the folder's
    script: str  # of our jobs, `script` of the folder
    comment: str  # of our jobs, the absolute path of the folder, where the site lets it be


@dataclass(frozen=True)
class Accounting:
    """What is known of a job, all its starts together."""

    state: str  # of the last start, in sacct's words; GONE: Slurm does not know this job any more
    nodes: str = ""  # of the last start, e.g. node[1-2]
    elapsed: int | None = None  # seconds, of all starts; None: sacct does not tell
    gpus: int = 0  # on all nodes
    reason: str = ""  # why it waits, or ended
    exit: str = ""  # code:signal
    live: bool = True  # pending, running or about to be requeued; unlike `state` it is no moment's
    missed: float = 0.0  # of one that is ENDING, the time since which it is

    def now(self, nodes: bool = True) -> str:
        return " ".join(filter(None, [self.state, self.nodes if nodes else "", self.reason]))

    @property
    def held(self) -> bool:
        """By a person or, after a failed launch, by Slurm: it waits until it is released."""
        return self.live and "held" in self.reason.lower()

    def __str__(self) -> str:
        if self.state == "GONE":
            return "left the queue, and sacct tells nothing of it"
        if self.state.startswith(UNDER_WAY):  # slurmdbd, or slurmctld's word to it, was lost
            on = f" on {self.nodes}" if self.nodes else ""
            return f"left the queue{on}, and sacct knows no more of it than {self.state}"
        words = [f"ended on {self.nodes or 'no node'} as {self.state}"]
        words += [f"exit {self.exit}"] if self.exit else []
        words += [f"reason {self.reason}"] if self.reason else []
        return ", ".join(words)


def script(folder: Path) -> Path:
    """What sbatch is given for the jobs of a folder: in the queue, they are known by it."""
    return (folder / "submitit" / "submission.sh").resolve()


def queue() -> list[Queued]:
    """Jobs of anybody that have not ended, oldest first."""
    fields = BETWEEN.join(["%F", "%T", "%u", "%j", "%o", "%k"])
    shown = run("squeue", "--all", "--noheader", f"--format={fields}")
    if shown.returncode:
        raise NotNow(f"Slurm does not answer ({refusal(shown.stderr)})")
    rows = [line.split(BETWEEN) for line in shown.stdout.splitlines()]
    jobs = [Queued(*row) for row in rows if len(row) == 6 and row[0].isdigit()]
    return sorted(jobs, key=lambda found: int(found.job))


def live(folder: Path, patient: bool = False) -> list[Queued]:
    return of_folder(folder, insist(queue, patient))


def of_folder(folder: Path, jobs: Iterable[Queued]) -> list[Queued]:
    """Those of the jobs that are of this very folder.

    A site's plugin may write its own comment, and its own sbatch submit a copy of the script.
    """
    recorded, marks = jobs_of(folder), {str(folder.resolve()), str(script(folder))}

    def belongs(job: Queued) -> bool:
        known = job.job in recorded and job.name == folder.name
        return known or not marks.isdisjoint({job.comment, job.script})

    return [job for job in jobs if belongs(job)]


def ids(array: str, parts: int) -> list[str]:
    """The jobs of an array; one alone is submitted, and called, as a mere job."""
    return [f"{array}_{i}" for i in range(parts)] if parts > 1 else [array]


def record(folder: Path, array: str, parts: int, who: str) -> None:
    """Add a job or an array to the folder's jobs.json, unless it is the last one there."""
    jobs = recorded(folder)
    if [entry["job"] for entry in jobs[-1:]] != [array]:
        by = {"user": getpass.getuser(), "time": time.time()}
        entry = {"job": array, "parts": parts, "who": who} | by
        write_json(folder / "jobs.json", [*jobs, entry])


def jobs_of(folder: Path) -> list[str]:
    return [entry["job"] for entry in recorded(folder)]


def recorded(folder: Path) -> list[Submitted]:
    """What is damaged, or of somebody who shows it to nobody, tells of none."""
    return told(list[Submitted], folder / "jobs.json") or []


def accounting(jobs: Iterable[str], every: float = EVERY) -> dict[str, Accounting]:
    """What is known of `jobs`, and never asked more often than `every` seconds by all together.

    Whoever finds the last answers too old asks for all runs and arrays, and leaves what it hears
    in runs/.slurm/; the others read that.
    """
    jobs = set(jobs)
    path = runs_folder() / ".slurm" / "accounting.json"
    if _age(_answers(path)) >= every:
        with suppress(BlockingIOError), _turn(path.parent):  # else another one asks
            last = _answers(path)
            if _age(last) >= every:
                answers = _ask(jobs | _last(), _known(last))
                known = last["jobs"] | {job: asdict(answer) for job, answer in answers.items()}
                _leave(path, {"asked": time.time(), "jobs": known})
    found = _known(_answers(path))
    return {job: found[job] for job in jobs if job in found}


def _known(answers: Answers) -> dict[str, Accounting]:
    """By job. A newer d2it may say more of one; what is damaged is not known."""
    names, found = {field.name for field in fields(Accounting)}, {}
    for job, entry in answers["jobs"].items():
        said = {name: value for name, value in entry.items() if name in names}
        with suppress(UserError):
            found[job] = build(Accounting, said, job)
    return found


def _last() -> set[str]:
    """The jobs that were last submitted for each run, and for each array of shares."""
    folders = [*runs_folder().iterdir(), *runs_folder().glob(".arrays/*")]
    last = [entry for folder in folders for entry in recorded(folder)[-1:]]
    return {job for entry in last for job in ids(entry["job"], entry.get("parts", 1))}


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Asking Slurm for all that share `folder`; who cannot write there asks for himself."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(open(folder / "lock", "a", encoding="utf-8"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield


def _leave(path: Path, answers: Answers) -> None:
    try:
        write_json(path, answers)
    except OSError:
        _own[path] = answers


def _age(answers: Answers) -> float:
    """Seconds since Slurm was asked, if need be by a clock that is ahead of ours."""
    return abs(time.time() - answers["asked"])


def _answers(path: Path) -> Answers:
    """The last that were left there, or that this process has kept."""
    own: Answers = _own.get(path, {"asked": 0.0, "jobs": {}})
    return min(told(Answers, path) or own, own, key=_age)


def _ask(jobs: set[str], before: dict[str, Accounting]) -> dict[str, Accounting]:
    """One question to squeue and one to sacct; what they do not answer is not made up."""
    if not jobs:
        return {}
    chosen = f"--jobs={','.join(sorted(jobs))}"
    shown = run("squeue", "--all", "--noheader", "--array", "--format=%i|%T|%N|%r", chosen)
    options = ("--allocations", "--duplicates", "--noheader", "--parsable2")
    told = run("sacct", *options, f"--format={','.join(FIELDS)}", chosen)
    answered = shown.returncode == 0 or "Invalid job id" in shown.stderr  # none of them is left
    rows = [line.split("|", 3) for line in shown.stdout.splitlines() if line.count("|") > 2]
    waiting = {job: row for job, *row in rows}
    found = parse(told.stdout, set(waiting) if answered else jobs)
    for job, (state, nodes, reason) in waiting.items():  # which squeue knows better than sacct
        reason = "" if reason == "None" else reason
        known = found.get(job, Accounting(state))
        found[job] = replace(known, state=state, nodes=nodes, reason=reason, live=True)
    if answered:
        for job in jobs - waiting.keys():
            found[job] = _missing(found.get(job), before.get(job))
    return found


def _missing(answer: Accounting | None, before: Accounting | None) -> Accounting:
    """Of a job that squeue does not list: what sacct answers, unless that is no end."""
    if answer is not None and answer.state not in UNDER_WAY:
        return answer
    if before is not None and not before.live:
        return answer or before
    missed = before.missed if before and before.missed else time.time()
    if time.time() - missed < LOST:
        return replace(answer or Accounting(ENDING), state=ENDING, live=True, missed=missed)
    return answer or Accounting("GONE", live=False)


def parse(rows: str, live: set[str]) -> dict[str, Accounting]:
    """sacct's rows, one for each start of a job, as one answer a job."""
    found: dict[str, Accounting] = {}
    for row in rows.splitlines():
        job, state, nodes, elapsed, tres, reason, exit = row.split("|")
        before = found.get(job)
        gpus = re.search(r"gres/gpu=(\d+)", tres)
        found[job] = Accounting(
            state=state,
            nodes="" if nodes == "None assigned" else nodes,
            elapsed=int(elapsed or 0) + (before.elapsed or 0 if before else 0),
            gpus=int(gpus[1]) if gpus else (before.gpus if before else 0),
            reason="" if reason == "None" else reason,
            exit=exit,
            live=job in live,
        )
    return found


@contextmanager
def submitting(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, even by an sbatch that outlives us: what is started here inherits
    it, as the standard input that it does not read. Whoever comes next finds the job in the queue.
    """
    with locked(path) as lock:
        before = os.dup(0)
        os.dup2(lock.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)
