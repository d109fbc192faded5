"""The checks as a Slurm job on one node, submitted as trainings are; its output is shown here."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import ROOT
from d2it.config.paths import runs_folder
from d2it.errors import UserError
from d2it.files import remove_folder, write_text
from d2it.jobs.launcher import load_launcher
from d2it.jobs.slurm_commands import require
from d2it.jobs.slurm_jobs import Jobs, Work
from d2it.jobs.submit import logs_of

if TYPE_CHECKING:
    import submitit

MINUTES = 120  # its time limit: an hour, and as much again


@dataclass
class CheckJob(Work):
    """On the node: the command, whose code it leaves."""

    mode: list[str]
    code: Path

    def do(self, here: "submitit.JobEnvironment", word: Path) -> bool:
        command = [sys.executable, "-m", "benchmarks.first_hour", *self.mode]
        code = subprocess.run(command, cwd=ROOT, stderr=subprocess.STDOUT).returncode
        write_text(self.code, str(code))
        return True


def submitted(words: str | None, simulated: bool) -> int:
    """Submit, wait and show; what the checks ended with. One node, with the launcher's GPUs."""
    require("run it on a GPU node without SLURM=1")
    launcher = load_launcher(words or os.environ.get("D2IT_LAUNCHER") or "slurm")
    if launcher.cluster != "slurm":
        raise UserError(
            "The launcher names no Slurm cluster: give LAUNCHER='slurm …', or leave it."
        )
    asked = launcher.of("first_hour")
    cores = asked.cpus * asked.processes
    resources = replace(asked, nodes=1, processes=1, cpus=cores, minutes=MINUTES)
    folder = (runs_folder() / "first-hour-job").resolve()
    work = CheckJob(["--simulated"] if simulated else [], folder / "code")
    lock = folder.with_suffix(".lock")
    jobs = Jobs(folder, "first hour", {"it": work}, resources, launcher.poll, lock, patient=False)
    show = follow(logs_of(folder))
    try:
        jobs.run(clear=lambda: remove_folder(folder), show=show)
    finally:
        show()
    return int(work.code.read_text(encoding="utf-8"))


def follow(logs: Path) -> Callable[[], None]:
    """Shows what its job has written since it was last called."""
    shown = 0

    def show() -> None:
        nonlocal shown
        for path in logs.glob("*_log.out"):
            with open(path, encoding="utf-8") as file:
                file.seek(shown)
                print(file.read(), end="", flush=True)
                shown = file.tell()

    return show
