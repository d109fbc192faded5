"""The shares of a stage as one array of Slurm jobs, then one job that puts them together.

An array belongs to a command by its name, made of the stage and a digest of the command's words,
and by its comment, the folder where each job leaves how it ended. So whoever waits may be killed:
the same command finds the array in the queue, and computes nothing twice. No torch is imported.
"""

import os
import re
import shutil
import signal
import socket
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
from d2it.files import canonical_digest, read_json, write_json

if TYPE_CHECKING:
    from d2it.launch import Launcher, Resources

SHOWN = 20  # lines of a job's log
REQUEUES = 1000  # submitit's own limit is 3
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
        lines = [""]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                lines = [*lines, line][-SHOWN:]
        while process.returncode in (-signal.SIGUSR2, -signal.SIGTERM):
            time.sleep(1)  # at its limit or preempted: Slurm requeues and ends us, or only ends us
        sentence = re.match(r"d2it: error: (.*)", lines[-1])
        code = process.returncode
        died = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        told = (
            f"Part {part} {died} on {socket.gethostname()} (logs: {self.folder}): the same command "
            "goes on from the units that are there."
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


def _live(folder: Path) -> bool:
    return any(job.comment == str(folder) for job in slurm.queued(folder.name))


def _run(
    folder: Path, parts: Sequence[str], job: PartJob, resources: "Resources", every: float
) -> None:
    """Submit the parts, or find them in the queue, and wait for all; squeue is asked seldom."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "There is no Slurm here (sbatch was not found): log in to a submit node, or compute "
            "here with --processes N."
        )
    if not _live(folder):
        shutil.rmtree(folder, ignore_errors=True)
        submitted = _submit(folder, parts, job, resources)
        print(f"{folder.name}: Slurm job {submitted}, {len(parts)} parts", file=sys.stderr)
    asked = time.monotonic()
    while missing := [part for part in parts if not _word(folder, part).is_file()]:
        time.sleep(LOOK)
        if time.monotonic() - asked > every:
            asked = time.monotonic()
            if not _live(folder) and not all(_word(folder, part).is_file() for part in missing):
                _show_log(folder)
                raise UserError(
                    f"Slurm ended {folder.name} before {', '.join(missing)} was finished (logs: "
                    f"{folder}): the same command goes on from the units that are there."
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
        said = re.findall(r"sbatch: error: (?:Batch job submission failed: )?(.*)", str(error))
        raise UserError(
            f"Slurm refused {folder.name} ({said[-1] if said else error}): correct the launcher."
        ) from None
    return jobs[0].job_id.split("_")[0]


def _show_log(folder: Path) -> None:
    """The last lines of the log that was written last."""
    logs = sorted(folder.glob("*_log.err"), key=lambda path: path.stat().st_mtime)
    if logs:
        print("".join(logs[-1].read_text().splitlines(True)[-SHOWN:]), file=sys.stderr)
