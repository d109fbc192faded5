"""The shares of a stage as one array of Slurm jobs, then one job that puts them together.

Both have a folder in runs/.arrays/, named after the stage and digests of the place that they make
and of the command's words: the same command finds it, and what its jobs have left, and computes
nothing twice; another command for the same place waits until they have left the queue.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from d2it.config.paths import runs_folder
from d2it.files import canonical_digest, remove_folder
from d2it.jobs import last_word, slurm, slurm_commands
from d2it.jobs.slurm_jobs import Jobs, Work
from d2it.shares import WORKER

if TYPE_CHECKING:
    import submitit

    from d2it.jobs.launcher import Launcher

END = "end"  # the part that puts together what shares have computed


@dataclass
class PartOfCommand(Work):
    """Computes one part of a command, in a process that leaves its own UserError."""

    words: Sequence[str]
    part: str
    threads: int

    def do(self, here: "submitit.JobEnvironment", word: Path) -> bool:
        own = ["--processes", "1"] if self.part == END else ["--share", self.part]
        command = [sys.executable, "-m", "d2it", *self.words, *own]
        environment = {"D2IT_THREADS": str(self.threads)} | os.environ | {last_word.FILE: str(word)}
        worker = {WORKER: "1"}  # its reports are in this job's output
        with subprocess.Popen(command, env=environment | worker, stdin=subprocess.PIPE) as process:
            code = process.wait()
        while code in (-signal.SIGUSR2, -signal.SIGTERM):
            time.sleep(1)  # at its limit or preempted: Slurm requeues and ends us, or only ends us
        if code and not word.exists():
            node = os.environ["SLURMD_NODENAME"]
            who = f"Part {self.part} on {node} (logs: {here.paths.folder})"
            last_word.write(word, last_word.died(who, code), died=True)
        return not code


def compute_on_slurm(
    words: Sequence[str], stage: str, place: Path, launcher: "Launcher", shares: int
) -> None:
    """Have the command, which makes `place`, computed in `shares` shares and put together."""
    slurm_commands.require("compute here with --processes N")
    same_place = f"d2it-{stage}-{canonical_digest(str(place.resolve()))[:8]}"
    name = f"{same_place}-{canonical_digest([os.getcwd(), *words])[:8]}"
    home = runs_folder().resolve() / ".arrays"
    resources = replace(launcher.of(stage), nodes=1, processes=1)

    def jobs(suffix: str | int, *parts: str) -> Jobs:
        folder = home / f"{name}-{suffix}"
        work = {part: PartOfCommand(words, part, launcher.threads) for part in parts}
        who = " ".join(takewhile(lambda word: word[:1] != "-" and "=" not in word, words))
        return Jobs(folder, who, work, resources, launcher.poll, home / "lock")

    def run(jobs: Jobs, done: Callable[[], bool] = lambda: False) -> bool:
        def clear() -> None:
            for folder in home.glob(f"{same_place}-*"):
                if not folder.name.startswith(name):
                    _await_end(folder, place)
            remove_folder(jobs.folder)

        return jobs.run(clear, done)

    end = jobs(END, END)
    if shares and not slurm.live(end.folder, patient=True):
        for begun in home.glob(f"{name}-[0-9]*"):  # when the launcher asked for another number
            has_jobs = slurm.live(begun, patient=True)
            shares = int(begun.name.rpartition("-")[2]) if has_jobs else shares
        array = jobs(shares, *(f"{i + 1}/{shares}" for i in range(shares)))
        if not run(array, array.ended_well):
            return
    if run(end):
        for folder in home.glob(f"{name}-*"):
            remove_folder(folder)


def _await_end(folder: Path, place: Path) -> None:
    """Ask again later, if it has jobs."""
    for job in slurm.live(folder)[:1]:
        made = f"{place} is being made by Slurm job {job.job}, of a command with other words"
        raise slurm_commands.NotNow(made)
