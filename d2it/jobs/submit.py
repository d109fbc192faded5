"""Submitting jobs that submitit runs: its batch script, our sbatch."""

import getpass
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.errors import UserError
from d2it.files import atomic_path, write_text
from d2it.jobs import slurm
from d2it.jobs.slurm_commands import SILENCE, NotNow, refusal, run

if TYPE_CHECKING:
    import submitit

    from d2it.jobs.launcher import Resources


REQUEUES = 1000  # submitit's own limit, 3, would end a week-long run on its third day
WARNED = 90  # seconds before its time limit at which a job is told to save
ASKED = ("partition", "account", "constraint", "nodes", "gpus", "minutes", "extra")  # of Slurm
PERHAPS = "a job that it has accepted will be found"
# In a job: what it does, under the name at which submitit looks. A requeued job has its own.
LINK = (
    "ln -s {logs}/work_${{SLURM_ARRAY_TASK_ID:-0}}.pkl "
    "{logs}/${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
    "_submitted.pkl 2> /dev/null"
)


def logs_of(folder: Path) -> Path:
    """What submitit writes, of the jobs that belong to `folder`."""
    return slurm.script(folder).parent


def make_executor(folder: Path, resources: "Resources") -> "submitit.SlurmExecutor":
    """What writes the file for sbatch, of jobs that are found by the folder's name and path."""
    import submitit

    logs, python = logs_of(folder), resources.python
    executor = submitit.SlurmExecutor(logs, max_num_timeout=REQUEUES, python=python)
    options = {"requeue": True, "comment": str(folder.resolve())} | resources.extra
    if resources.account:
        options["account"] = resources.account
    executor.update_parameters(
        job_name=folder.name,
        nodes=resources.nodes,
        ntasks_per_node=resources.processes,
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus,
        time=resources.minutes,
        signal_delay_s=WARNED,
        partition=resources.partition,
        constraint=resources.constraint,
        wckey=None,  # submitit's own is refused where they are enforced
        array_parallelism=resources.at_once,
        additional_parameters={name: value for name, value in options.items() if value is not None},
        setup=[LINK.format(logs=shlex.quote(str(logs)))],
        # the others wait in vain for one that died
        srun_args=["--kill-on-bad-exit=1", "--export=ALL"],
    )
    return executor


def submit(folder: Path, work: Sequence[Callable[[], Any]], resources: "Resources") -> str:
    """Have sbatch called once for the jobs of `folder`; their number. Several are an array.

    All that they need is written before: whoever submits may be killed at any time. What sbatch
    says is not trusted, for sites have their own, and an answer can be lost: squeue is asked.
    """
    executor, logs = make_executor(folder, resources), logs_of(folder)
    if len(work) > 1:
        executor.parameters["map_count"] = len(work)
    written = [logs / f"work_{i}.pkl" for i in range(len(work))]
    for path, part in zip(written, work, strict=True):
        _write_work(path, part, resources.minutes)
    script = slurm.script(folder)
    write_text(script, executor._make_submission_file_text(executor._submitit_command_str, ""))
    said = run("sbatch", "--parsable", "--export=ALL", str(script), patience=None)
    told = re.findall(r"^(\d+)(?:;.*)?$", said.stdout, re.MULTILINE) if not said.returncode else []
    try:
        jobs = slurm.queue()
    except NotNow as silence:
        if told:
            return told[-1]
        raise NotNow(silence.said, PERHAPS) from None
    for number in [job.job for job in slurm.of_folder(folder, jobs)][-1:] or told[-1:]:
        return number  # or it has ended already
    why = refusal(said.stderr or said.stdout)
    if SILENCE.search(why):  # it may come to the queue yet
        raise NotNow(f"Slurm does not answer ({why})", PERHAPS)
    for path in (script, *written):
        path.unlink()
    has_some = any(job.user == getpass.getuser() for job in jobs)
    if "GrpSubmitJob" in why or ("MaxSubmitJob" in why and has_some):  # QOSMaxSubmitJobPerUserLimit
        raise NotNow(f"Slurm takes no more jobs for now ({why})")
    raise UserError(
        f"Slurm refused the job of {folder.name} ({why}): nothing was submitted; correct the "
        f"launcher, which asks for {_asked(resources, len(work))}."
    )


def _write_work(path: Path, part: Callable[[], Any], minutes: int) -> None:
    from submitit.helpers import DelayedSubmission

    delayed = DelayedSubmission(part)
    delayed.set_timeout(minutes, REQUEUES)
    with atomic_path(path) as temporary:
        delayed.dump(temporary)


def _asked(resources: "Resources", parts: int) -> str:
    asked = [(name, getattr(resources, name)) for name in ASKED]
    asked += [("shares", parts)] if parts > 1 else []
    return ", ".join(f"{name} {value}" for name, value in asked if value).replace("'", "")
