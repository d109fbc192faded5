"""The shares of a stage as one array of Slurm jobs, then one job that puts them together.

An array belongs to a command by its name, made of the stage and a digest of the command's words,
and by its comment, the folder where each job leaves how it ended. So whoever waits may be killed:
the same command finds the array in the queue, and computes nothing twice. No torch is imported.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it import slurm
from d2it.config.paths import runs_folder
from d2it.errors import UserError
from d2it.files import canonical_digest, locked, read_json, write_json
from d2it.jobs import show_end
from d2it.slurm_jobs import REQUEUES, leave

if TYPE_CHECKING:
    from d2it.launch import Launcher, Resources

SLOW = 30.0  # seconds that accounting may lag behind
LOOK = 2.0  # seconds between two looks at what the jobs left
END = "end"  # the part that puts together what shares have computed


@dataclass
class PartJob:
    """Computes one part of a command. submitit pickles it, and requeues what `checkpoint` gives."""

    words: Sequence[str]
    folder: Path
    threads: int

    def __call__(self, part: str) -> None:
        own = ["--processes", "1"] if part == END else ["--shard", part]
        environment = {"D2IT_THREADS": str(self.threads)} | os.environ
        command = [sys.executable, "-m", "d2it", *self.words, *own]
        last = ""
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for last in process.stderr:
                print(last, end="", file=sys.stderr, flush=True)
        while process.returncode in (-signal.SIGUSR2, -signal.SIGTERM):
            time.sleep(1)  # at its limit or preempted: Slurm requeues and ends us, or only ends us
        sentence = re.match(r"d2it: error: (.*)", last)
        code = process.returncode
        died = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        node = os.environ["SLURMD_NODENAME"]
        told = (
            f"Part {part} {died} on {node} (logs: {self.folder}): the same command goes on from "
            "the units that are there."
        )
        error = sentence[1] if sentence else told
        write_json(_word(self.folder, part), {"error": error if code else None})

    def checkpoint(self, part: str) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, part)


def run_on_slurm(words: Sequence[str], stage: str, launcher: "Launcher", shares: int) -> None:
    """Have the command computed in `shares` shares and put together."""
    name = f"d2it-{stage}-{canonical_digest([os.getcwd(), *words, shares])[:8]}"
    resources = launcher.of(stage)
    parts = [f"{i + 1}/{shares}" for i in range(shares)]
    folders = []
    for kind, some in (("", parts), ("-end", [END])):
        if some:
            folder = (runs_folder() / ".arrays" / f"{name}{kind}").resolve()
            folders.append(folder)
            if some == [END] or not all(_ended_well(folder, part) for part in some):
                job = PartJob(words, folder, launcher.threads)
                _run(folder, some, job, resources, launcher.poll)
    for folder in folders:
        shutil.rmtree(folder)


def _word(folder: Path, part: str) -> Path:
    """Where the job of a part leaves how it ended."""
    return folder / f"{part.replace('/', '-of-')}.json"


def _ended_well(folder: Path, part: str) -> bool:
    path = _word(folder, part)
    return path.is_file() and read_json(path, made_by="d2it")["error"] is None


def _live(folder: Path) -> str | None:
    """The array of this very folder, if any part of it is pending or running."""
    jobs = [job.job for job in slurm.queued(folder.name) if job.comment == str(folder)]
    return jobs[0] if jobs else None


def _run(
    folder: Path, parts: Sequence[str], job: PartJob, resources: "Resources", every: float
) -> None:
    """Submit the parts, or find them in the queue, and wait for all; Slurm is asked seldom."""
    from submitit.core.utils import JobPaths
    from submitit.helpers import DelayedSubmission

    if shutil.which("sbatch") is None:
        raise UserError(
            "There is no Slurm here (sbatch was not found): log in to a submit node, or compute "
            "here with --processes N."
        )
    with locked(folder.parent / "lock"):
        array = _live(folder)
        if array is None or all(_word(folder, part).is_file() for part in parts):
            shutil.rmtree(folder, ignore_errors=True)
            array = _submit(folder, parts, job, resources)
        jobs = [f"{array}_{i}" for i in range(len(parts))] if len(parts) > 1 else [array]
        for part, own in zip(parts, jobs, strict=True):
            leave(folder, own, DelayedSubmission(job, part), resources)
    print(f"{folder.name}: Slurm job {array}, {len(parts)} parts", file=sys.stderr)
    asked = time.monotonic()
    while missing := [part for part in parts if not _word(folder, part).is_file()]:
        time.sleep(LOOK)
        if time.monotonic() - asked > every:
            asked = time.monotonic()
            if not _live(folder) and not all(_word(folder, part).is_file() for part in missing):
                ended, how = _how([jobs[parts.index(part)] for part in missing], every)
                show_end(JobPaths(folder, ended, 0).stderr)
                raise UserError(
                    f"Slurm ended {folder.name} before {', '.join(missing)} was finished: job "
                    f"{ended} {how} (logs: {folder}): the same command goes on from the units that "
                    "are there."
                )
    for part in parts:
        error = read_json(_word(folder, part), made_by="d2it")["error"]
        if error:
            raise UserError(error)


def _submit(folder: Path, parts: Sequence[str], job: PartJob, resources: "Resources") -> str:
    """One submission for all parts; the id of the array."""
    import submitit

    executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    options: dict[str, Any] = {"requeue": True, "comment": str(folder)}
    if resources.account:
        options["account"] = resources.account
    executor.update_parameters(
        job_name=folder.name,
        nodes=1,
        ntasks_per_node=1,
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus,
        time=resources.minutes,
        partition=resources.partition,
        constraint=resources.constraint,
        array_parallelism=resources.at_once,
        additional_parameters=resources.extra | options,
    )
    try:
        jobs: list[submitit.Job[Any]] = executor.map_array(job, parts)
    except submitit.core.utils.FailedJobError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"Slurm refused {folder.name} ({slurm.refusal(error)}): correct the launcher."
        ) from None
    return jobs[0].job_id.split("_")[0]


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
