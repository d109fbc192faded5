"""The shares of a stage as one array of Slurm jobs, then one job that puts them together.

An array belongs to a command by its name, made of the stage and a digest of the command's words,
and by its comment, the folder where each job leaves how it ended. So whoever waits may be killed:
the same command finds the array in the queue, and computes nothing twice. No torch is imported.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.config.paths import runs_folder
from d2it.errors import UserError
from d2it.files import canonical_digest, locked, remove_folder
from d2it.jobs import last_word, slurm
from d2it.jobs.submit import leave, logs_of, submit

if TYPE_CHECKING:
    from d2it.jobs.launcher import Launcher, Resources

SLOW = 30.0  # seconds that accounting may lag behind
LOOK = 2.0  # seconds between two looks at what the jobs left
END = "end"  # the part that puts together what shares have computed


@dataclass
class PartJob:
    """Computes one part of a command. submitit pickles it, and requeues what `checkpoint` gives."""

    words: Sequence[str]
    part: str
    folder: Path
    threads: int

    def __call__(self) -> None:
        own = ["--processes", "1"] if self.part == END else ["--shard", self.part]
        command = [sys.executable, "-m", "d2it", *self.words, *own]
        word = _word(self.folder, self.part)
        word.unlink(missing_ok=True)  # of a start before a requeue
        environment = {"D2IT_THREADS": str(self.threads)} | os.environ | {last_word.FILE: str(word)}
        code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode
        while code in (-signal.SIGUSR2, -signal.SIGTERM):
            time.sleep(1)  # at its limit or preempted: Slurm requeues and ends us, or only ends us
        if code and not word.exists():
            who = f"Part {self.part} on {os.environ['SLURMD_NODENAME']} (logs: {self.folder})"
            last_word.leave(word, last_word.died(who, code), died=True)
        elif not code:
            last_word.leave(word, None)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_on_slurm(words: Sequence[str], stage: str, launcher: "Launcher", shares: int) -> None:
    """Have the command computed in `shares` shares and put together."""
    slurm.require("compute here with --processes N")
    name = f"d2it-{stage}-{canonical_digest([os.getcwd(), *words])[:8]}"
    home, resources = runs_folder().resolve() / ".arrays", launcher.of(stage)
    end = home / f"{name}-{END}"

    def done(folder: Path, *parts: str) -> bool:
        work = [PartJob(words, part, folder, launcher.threads) for part in parts]
        return _run(folder, work, replace(resources, nodes=1, processes=1), launcher.poll)

    if shares and not _live(end):
        for begun in home.glob(f"{name}-[0-9]*"):  # when the launcher asked for another number
            shares = int(begun.name.rpartition("-")[2]) if _live(begun) else shares
        folder, parts = home / f"{name}-{shares}", [f"{i + 1}/{shares}" for i in range(shares)]
        well = [word["error"] is None for word in _words(folder, parts).values()]
        if (len(well) < shares or not all(well)) and not done(folder, *parts):
            return
    if done(end, END):
        for folder in home.glob(f"{name}-*"):
            remove_folder(folder)


def _word(folder: Path, part: str) -> Path:
    """Where the job of a part leaves how it ended."""
    return folder / f"{part.replace('/', '-of-')}.json"


def _words(folder: Path, parts: Iterable[str]) -> dict[str, last_word.Word]:
    """What the jobs of these parts have left."""
    found = {part: last_word.read(_word(folder, part)) for part in parts}
    return {part: word for part, word in found.items() if word}


def _live(folder: Path) -> str | None:
    """The array of this very folder, if any part of it is pending or running."""
    jobs = [job.job for job in slurm.queued(folder.name) if job.comment == str(folder)]
    return jobs[0] if jobs else None


def _run(folder: Path, work: Sequence[PartJob], resources: "Resources", every: float) -> bool:
    """Submit the parts, or find them in the queue, and wait for all; Slurm is asked seldom.

    False: the same command, waiting elsewhere, has seen the end of all and tidied up.
    """
    import submitit
    from submitit.core.utils import JobPaths

    parts = [own.part for own in work]
    with slurm.submitting(folder.parent / "lock"):
        array, words = _live(folder), _words(folder, parts)
        over = len(words) == len(parts) and any(word["error"] for word in words.values())
        if array is None or over:
            remove_folder(folder)
            jobs = submit(folder, work, resources)
            array = jobs[0].job_id.partition("_")[0]
        else:
            names = [f"{array}_{i}" for i in range(len(parts))] if len(parts) > 1 else [array]
            jobs = [submitit.SlurmJob(logs_of(folder), name, [0]) for name in names]
            for job, own in zip(jobs, work, strict=True):
                leave(job, own, resources)
    print(f"{folder.name}: Slurm job {array}, {len(parts)} parts", file=sys.stderr)
    asked, live = time.monotonic(), True
    while len(words := _words(folder, parts)) < len(parts):
        if not folder.exists():
            with locked(folder.parent / "lock"):  # or somebody is submitting it again
                if not folder.exists():
                    return False
            live = True
        if not live:
            missing = {
                part: job for part, job in zip(parts, jobs, strict=True) if part not in words
            }
            ended, how = _how([job.job_id for job in missing.values()], every)
            if missing.keys() & _words(folder, parts).keys() or not folder.exists():
                continue  # files of other hosts may be seen late
            last_word.show_end(JobPaths(logs_of(folder), ended, 0).stderr)
            raise UserError(
                f"Slurm ended {folder.name} before {', '.join(missing)} was finished: job "
                f"{ended} {how} (logs: {folder}): the same command goes on from the units that "
                "are there."
            )
        time.sleep(LOOK)
        if time.monotonic() - asked > every:
            with suppress(slurm.Silent):  # jobs go on while their controller is busy
                live = _live(folder) is not None
            asked = time.monotonic()
    for job, word in zip(jobs, words.values(), strict=True):
        if word["error"]:
            if "died" in word:
                last_word.show_end(job.paths.stderr)
            raise UserError(word["error"])
    return True


def _how(jobs: Sequence[str], every: float) -> tuple[str, slurm.Accounting]:
    """One of these jobs that have ended, if possible one that was started, and sacct's word."""
    deadline = time.monotonic() + every + SLOW
    known: dict[str, slurm.Accounting] = {}
    while time.monotonic() < deadline and not all(job in known for job in jobs):
        time.sleep(LOOK)
        told = slurm.accounting(jobs, every)
        known = {job: answer for job, answer in told.items() if not answer.live}
    ended = min(jobs, key=lambda job: not (job in known and known[job].nodes))
    return ended, known.get(ended, slurm.Accounting("unknown to sacct"))
