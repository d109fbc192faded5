"""A training as a Slurm job: what its processes do, and how it is waited for."""

import getpass
import os
import re
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from d2it.config.documents import told
from d2it.errors import UserError
from d2it.files import locked, write_json
from d2it.jobs import slurm, slurm_commands
from d2it.jobs.local import TrainingWork, follow
from d2it.jobs.slurm_jobs import Jobs, Work
from d2it.runs.lease import await_free
from d2it.runs.plan import Plan, make_plan
from d2it.runs.publish import finished

if TYPE_CHECKING:
    import submitit

    from d2it.jobs.launcher import Resources

FRUITLESS = 3  # starts of a job that save nothing new before it is given up


class Starts(TypedDict):
    """Of a job, since it last saved anything."""

    images: int
    starts: int


def _port(job: int) -> int:
    """Where a job's processes meet: each of 12,768 jobs in a row elsewhere, and below the ports
    (32768 and up) that Linux gives to connections, where submitit's choice may be taken already.
    """
    return 20_000 + job % 12_768


@dataclass
class SlurmJob(TrainingWork, Work):
    """As one process of a job; requeued by Slurm, it goes on."""

    def do(self, here: "submitit.JobEnvironment", word: Path) -> bool:
        from submitit.helpers import TorchDistributedEnvironment

        from d2it.runs.signals import Stopped

        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's, for Slurm's time limit
        plan = make_plan(self.run)
        if here.global_rank == 0:
            count_starts(plan, here.job_id)
        os.environ.setdefault("MASTER_PORT", str(_port(int(os.environ["SLURM_JOB_ID"]))))
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["MASTER_ADDR"] = _address(os.environ["MASTER_ADDR"])
        try:
            self.train(plan)
        except Stopped as stopped:
            if stopped.signum == signal.SIGUSR2 and callable(requeue):
                requeue(stopped.signum, None)
            while stopped.signum == signal.SIGTERM:
                time.sleep(1)  # preempted or cancelled: Slurm knows which, requeues or not, ends us
            return False
        return True


def count_starts(plan: Plan, job: str) -> None:
    """Bound the requeues of a job that never comes to save anything."""
    states = [int(path.name) for path in plan.state.glob("[0-9]*") if path.name.isdigit()]
    note, images = plan.folder / "submitit" / f"{job}_starts.json", max(states, default=0)
    before = told(Starts, note)
    starts = before["starts"] + 1 if before and before["images"] == images else 1
    write_json(note, {"images": images, "starts": starts})
    if starts > FRUITLESS:
        raise UserError(
            f"Slurm job {job} of {plan.run} was started {FRUITLESS} times at {images} images and "
            "ended each time before a state was saved: raise `minutes` in the launcher, or lower "
            f"training.{plan.kind}.save_images, and run the same command again."
        )


def _address(node: str) -> str:
    """Where a Slurm node can be reached: its name need not be known outside Slurm."""
    try:
        return socket.gethostbyname(node)
    except OSError:
        shown = slurm_commands.run("scontrol", "-o", "show", "node", node)
        found = re.search(r"NodeAddr=(\S+)", shown.stdout)
        return found[1] if found else node


def train_on_slurm(
    plan: Plan, job: TrainingWork, resources: "Resources", wait: bool, every: float
) -> None:
    """Submit a job, or find the one submitted before, and wait. A signal only ends the waiting."""
    slurm_commands.require("use --launcher local")
    work, lock = {"training": SlurmJob(**vars(job))}, plan.folder / "submit.lock"
    jobs = Jobs(plan.folder, plan.run, work, resources, every, lock, wait)
    slurm_commands.insist(lambda: _check_owner(plan, lock), wait)
    with follow(plan) as show:
        jobs.run(
            clear=lambda: await_free(plan.folder, wait),
            done=lambda: finished(plan, lambda _: None) is not None,
            show=show,
        )


def _check_owner(plan: Plan, lock: Path) -> None:
    if plan.folder.exists() and not os.access(plan.folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{plan.folder} belongs to {plan.folder.owner()}, and you cannot write there: train in "
            "a folder of your own (D2IT_RUNS), or ask for permission."
        )
    with locked(lock):  # theirs may be on its way to the queue
        strangers = [job for job in slurm.live(plan.folder) if job.user != getpass.getuser()]
    if strangers:
        raise UserError(
            f"{plan.folder} is being trained by {strangers[0].user} in Slurm job "
            f"{strangers[0].job}: wait for it, or train in a folder of your own (D2IT_RUNS)."
        )
