"""A training as a Slurm job: submitted once, found again, waited for.

A job belongs to a run by its name, <run>-<digest8>, and by its comment, the path of the run folder:
whoever was killed between submitting it and noting that finds it in the queue by these.
"""

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.errors import UserError
from d2it.files import write_json
from d2it.jobs import last_word, slurm
from d2it.jobs.local import Job, follow
from d2it.jobs.submit import WARNED, leave, logs_of, submit
from d2it.runs.lease import await_free
from d2it.runs.plan import Plan, make_plan

if TYPE_CHECKING:
    import submitit

    from d2it.jobs.launcher import Resources

FRUITLESS = 3  # starts of a job that save nothing new before it is given up
LOOK = 2.0  # seconds between two looks at what a job left; Slurm itself is asked less often
ENDING = 60.0  # seconds that a job may be listed as completing: then it is gone, or waits again


def _port(job: int) -> int:
    """Where a job's processes meet: each of 12,768 jobs in a row elsewhere, and below the ports
    (32768 and up) that Linux gives to connections, where submitit's choice may be taken already.
    """
    return 20_000 + job % 12_768


@dataclass
class SlurmJob(Job):
    """As one process of a job; requeued by Slurm, it goes on."""

    def __call__(self) -> dict[str, Any]:
        from submitit import JobEnvironment

        from d2it.runs.signals import Stalled

        here = JobEnvironment()
        word = _word(here.paths)
        for path in (here.paths.result_pickle, word):  # of a start before a requeue
            path.unlink(missing_ok=True)
        try:
            return self._part(here)
        except Stalled:  # it waited for one that died: that one's node may be down, all requeued
            raise
        except UserError as error:
            last_word.leave(word, error)
            raise

    def _part(self, here: "submitit.JobEnvironment") -> dict[str, Any]:
        from submitit.helpers import TorchDistributedEnvironment

        from d2it.runs.signals import Stopped

        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's, for Slurm's time limit
        plan = make_plan(self.run)
        if here.global_rank == 0:
            for half in here.paths.folder.glob(f"{here.job_id}_*.save_tmp"):
                half.unlink()
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
            return {"stopped": stopped.signum}
        return {}

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _word(paths: "submitit.core.utils.JobPaths") -> Path:
    """Where a process of a job leaves the UserError that ended it."""
    return paths.result_pickle.with_suffix(".json")


def count_starts(plan: Plan, job: str) -> None:
    """Bound the requeues of a job that never comes to save anything."""
    states = [int(path.name) for path in plan.state.glob("[0-9]*") if path.name.isdigit()]
    note, images = plan.folder / "submitit" / f"{job}_starts.json", max(states, default=0)
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    starts = before["starts"] + 1 if before.get("images") == images else 1
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
        shown = subprocess.run(
            ["scontrol", "-o", "show", "node", node], capture_output=True, text=True
        )
        found = re.search(r"NodeAddr=(\S+)", shown.stdout)
        return found[1] if found else node


def run_on_slurm(plan: Plan, job: Job, resources: "Resources", wait: bool, every: float) -> None:
    """Submit a job, or find the one submitted before, and wait. A signal only ends the waiting."""
    from d2it.runs.signals import SIGNALS, Detached

    submitted = _attach(plan, SlurmJob(**vars(job)), resources, wait)
    print(f"{plan.run}: Slurm job {submitted.job_id}", file=sys.stderr)

    def detach(signum: int, _: Any) -> None:
        raise Detached(submitted.job_id, signum)

    handlers = {signum: signal.signal(signum, detach) for signum in SIGNALS}
    try:
        ended = _wait(plan, submitted, every)
    finally:
        for signum, previous in handlers.items():
            signal.signal(signum, previous)
    _settle(plan, submitted, ended)


def _attach(plan: Plan, job: SlurmJob, resources: "Resources", wait: bool) -> "submitit.Job[Any]":
    """The one live job of this run, whoever submitted it."""
    import submitit

    slurm.require("use --launcher local")
    _check_owner(plan)
    if 60 * resources.minutes < 2 * WARNED:
        raise UserError(
            f"The launcher gives {plan.run} {resources.minutes} minutes, but a job is told to save "
            f"{WARNED} s before its limit: give it `minutes` of {-(-2 * WARNED // 60)} or more."
        )
    tasks = range(resources.nodes * resources.processes)
    with slurm.submitting(plan.folder / "submit.lock"):
        live = _find(plan)
        if live is None:
            await_free(plan.folder, wait)
            [submitted] = submit(plan.folder, [job], resources)
        else:
            submitted = submitit.SlurmJob(logs_of(plan.folder), live, tasks)
            leave(submitted, job, resources)
        slurm.record(plan.folder, submitted.job_id, len(tasks))
    return submitted


def _check_owner(plan: Plan) -> None:
    if plan.folder.exists() and not os.access(plan.folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{plan.folder} belongs to {plan.folder.owner()}, and you cannot write there: train in "
            "a folder of your own (D2IT_RUNS), or ask for permission."
        )


def _find(plan: Plan) -> str | None:
    """The pending or running job of this very run folder."""
    deadline = time.monotonic() + ENDING
    while True:
        jobs = slurm.queued(plan.folder.name)
        mine = [job for job in jobs if job.comment == str(plan.folder.resolve())]
        strangers = [job for job in mine if job.user != getpass.getuser()]
        if strangers:
            raise UserError(
                f"{plan.folder} is being trained by {strangers[0].user} in Slurm job "
                f"{strangers[0].job}: wait for it, or train in a folder of your own (D2IT_RUNS)."
            )
        if not mine:
            return None
        if any(job.state != "COMPLETING" for job in mine) or time.monotonic() > deadline:
            return mine[0].job
        time.sleep(LOOK)


def _wait(plan: Plan, submitted: "submitit.Job[Any]", every: float) -> slurm.Accounting | None:
    """Until the job has ended: by what it left, or in sacct's words."""
    said = ""
    with follow(plan) as show:
        while not _left_word(submitted):
            show()
            known = slurm.accounting([submitted.job_id], every).get(submitted.job_id)
            if known and not known.live:
                return known
            if known and said != (
                said := " ".join(filter(None, [known.state, known.nodes, known.reason]))
            ):
                print(f"{plan.run}: Slurm job {submitted.job_id}: {said}", file=sys.stderr)
            time.sleep(LOOK)
    return None


def _left_word(submitted: "submitit.Job[Any]") -> bool:
    """Whether the job ended well, or said what a user can mend. All else may be requeued."""
    outcome, result = _outcome(submitted.task(0).paths.result_pickle)
    done = outcome == "success" and "stopped" not in result
    return done or bool(_sentence(submitted))


def _outcome(path: Path) -> tuple[str, Any]:
    """What a process left: ("success", its result), ("error", a traceback), or nothing yet."""
    from submitit.core.utils import pickle_load

    try:
        outcome: tuple[str, Any] = pickle_load(path)
        return outcome
    except (FileNotFoundError, EOFError):
        return "", None


def _sentence(submitted: "submitit.Job[Any]") -> str | None:
    """What a user can mend, in the words of the first process that left any."""
    words = (last_word.read(_word(task.paths)) for task in _tasks(submitted))
    return next((str(word["error"]) for word in words if word), None)


def _tasks(submitted: "submitit.Job[Any]") -> "list[submitit.Job[Any]]":
    return [submitted.task(rank) for rank in range(submitted.num_tasks)]


def _settle(plan: Plan, submitted: "submitit.Job[Any]", ended: slurm.Accounting | None) -> None:
    """The end of a job: silence if all went well, else the clearest of what is known."""
    sentence = _sentence(submitted)
    if sentence:
        raise UserError(sentence)
    tasks = _tasks(submitted)
    outcomes = [_outcome(task.paths.result_pickle)[0] for task in tasks]
    if ended is None or outcomes[0] == "success":
        return
    # A process that was killed leaves nothing; the others then fail for want of it.
    rank = min(range(len(tasks)), key=lambda i: ["", "error", "success"].index(outcomes[i]))
    log = tasks[rank].paths.stderr
    last_word.show_end(log)
    raise UserError(
        f"Slurm job {submitted.job_id} of {plan.run} {ended} (its log: {log}): the same command "
        "goes on from the last saved state."
    )
