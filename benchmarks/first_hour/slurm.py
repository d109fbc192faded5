"""The checks as a Slurm job on one node, submitted as trainings are; its output is shown here."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT
from d2it.config.paths import runs_folder
from d2it.errors import UserError
from d2it.jobs import slurm
from d2it.jobs.launcher import load_launcher
from d2it.jobs.submit import submit

if TYPE_CHECKING:
    import submitit

LOOK = 2.0  # seconds between two looks at what the job has written
MINUTES = 120  # its time limit: an hour, and as much again


@dataclass
class CheckJob:
    """What submitit pickles, and calls on the node."""

    mode: list[str]

    def __call__(self) -> int:
        command = [sys.executable, "-m", "benchmarks.first_hour", *self.mode]
        return subprocess.run(command, cwd=ROOT, stderr=subprocess.STDOUT).returncode


def submitted(words: str | None, simulated: bool) -> int:
    """Submit, wait and show; what the checks ended with. One node, with the launcher's GPUs."""
    slurm.require("run it on a GPU node without SLURM=1")
    launcher = load_launcher(words or os.environ.get("D2IT_LAUNCHER") or "slurm")
    if launcher.cluster != "slurm":
        raise UserError(
            "The launcher names no Slurm cluster: give LAUNCHER='slurm …', or leave it."
        )
    asked = launcher.of("first_hour")
    cores = asked.cpus * asked.processes
    resources = replace(asked, nodes=1, processes=1, cpus=cores, minutes=MINUTES)
    folder = runs_folder() / "first-hour-job"
    mine = [job for job in slurm.queued(folder.name) if job.comment == str(folder.resolve())]
    if mine:
        raise UserError(
            f"Slurm job {mine[0].job} is already running these checks: wait for it, or end it "
            f"with `scancel {mine[0].job}`."
        )
    shutil.rmtree(folder, ignore_errors=True)
    [job] = submit(folder, [CheckJob(["--simulated"] if simulated else [])], resources)
    print(f"Slurm job {job.job_id}, its output: {job.paths.stdout}", flush=True)
    try:
        return follow(job, launcher.poll)
    except KeyboardInterrupt:
        print(f"Slurm job {job.job_id} goes on: `scancel {job.job_id}` ends it.")
        return 130


def follow(job: "submitit.Job[Any]", every: float) -> int:
    """Show what the job writes until it has ended."""
    from submitit.core.utils import pickle_load

    shown, state, result = 0, "", job.paths.result_pickle
    while True:
        known = slurm.accounting([job.job_id], every).get(job.job_id)
        over = result.exists() or (known is not None and not known.live)
        if job.paths.stdout.exists():
            with open(job.paths.stdout, encoding="utf-8") as file:
                file.seek(shown)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                shown = file.tell()
        if result.exists():
            outcome, value = pickle_load(result)
            if outcome == "success":
                return int(value)
        if over:
            raise UserError(
                f"Slurm job {job.job_id} {known or 'failed'} before all checks were made: read "
                f"{job.paths.stdout} and {job.paths.stderr}."
            )
        if known and known.state != state:
            state = known.state
            print(
                f"Slurm job {job.job_id}: {state} {known.nodes} {known.reason}".rstrip(), flush=True
            )
        time.sleep(LOOK)
