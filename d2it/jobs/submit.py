"""Submitting jobs through submitit."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.errors import UserError
from d2it.files import atomic_path
from d2it.jobs import slurm

if TYPE_CHECKING:
    import submitit

    from d2it.jobs.launcher import Resources


REQUEUES = 1000  # submitit's own limit, 3, would end a week-long run on its third day
WARNED = 90  # seconds before its time limit at which a job is told to save
ASKED = ("partition", "account", "constraint", "nodes", "gpus", "minutes", "extra")  # of Slurm


def logs_of(folder: Path) -> Path:
    """What submitit writes, of the jobs that belong to `folder`."""
    return (folder / "submitit").resolve()


def make_executor(folder: Path, resources: "Resources") -> "submitit.SlurmExecutor":
    """What writes the file for sbatch, of jobs that are found by the folder's name and path."""
    import submitit

    logs, python = logs_of(folder), resources.python
    executor = submitit.SlurmExecutor(logs, max_num_timeout=REQUEUES, python=python)
    ours = {"requeue": True, "comment": str(folder.resolve())}
    if resources.account:
        ours["account"] = resources.account
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
        array_parallelism=resources.at_once,
        additional_parameters=resources.extra | ours,
        srun_args=["--kill-on-bad-exit=1"],  # the others wait in vain for one that died
    )
    return executor


def submit(
    folder: Path, work: Sequence[Callable[[], Any]], resources: "Resources"
) -> "list[submitit.Job[Any]]":
    """The jobs of `folder`, by one sbatch: several are an array."""
    from submitit.core.utils import FailedJobError

    executor = make_executor(folder, resources)
    before = set(executor.folder.iterdir()) if executor.folder.is_dir() else set()
    try:
        with redirect_stderr(StringIO()):  # sbatch's words are in the exception
            return executor.submit_array(work)
    except FailedJobError as error:
        for path in set(executor.folder.iterdir()) - before:
            path.unlink()
        asked = ((name, getattr(resources, name)) for name in ASKED)
        settings = ", ".join(f"{name} {value}" for name, value in asked if value).replace("'", "")
        raise UserError(
            f"Slurm refused the job of {folder.name} ({slurm.refusal(error)}): nothing was "
            f"submitted; correct the launcher, which asks for {settings}."
        ) from None


def give_work(folder: Path, job: str, work: Callable[[], Any], resources: "Resources") -> None:
    """What a job does, where it looks for that within its first minute: whoever submitted it may
    have been killed before.

    The file bears the job's number, so that submitit too can write it only after sbatch. To hold
    the job until then saves nothing: after a kill, its place in the queue would be given up.
    """
    from submitit.core.utils import JobPaths
    from submitit.helpers import DelayedSubmission

    path = JobPaths(logs_of(folder), job).submitted_pickle
    if not path.exists():
        delayed = DelayedSubmission(work)
        delayed.set_timeout(resources.minutes, REQUEUES)
        with atomic_path(path) as temporary:
            delayed.dump(temporary)
