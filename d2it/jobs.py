"""Training in other processes: the same job on this machine and on Slurm, through submitit."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.files import read_json, write_json
from d2it.training.run_folder import Plan, make_plan

if TYPE_CHECKING:
    import submitit

    from d2it.launch import Resources

SHOWN = 20  # lines of a failed process's log
REQUEUES = 1000  # submitit's own limit, 3, would end a week-long run on its third day
GRACE = 5.0  # seconds that processes have to end in after one of them has failed
POLL = 0.2  # seconds between two looks at what a job left; Slurm itself is asked less often
YEAR = 365 * 24 * 60  # minutes


@dataclass
class Job:
    """The work of one process. submitit pickles it, calls it, requeues what `checkpoint` gives."""

    config: Config
    run: str
    device: str
    threads: int
    alive: Path | None = None  # locked by the launching process while it lives; None: outlives it

    def train(self, wait: bool = False) -> None:
        from d2it.training import engine
        from d2it.training.tasks import make_task

        os.environ.setdefault("D2IT_THREADS", str(self.threads))
        plan = make_plan(self.config, self.run)
        engine.train(plan, lambda: make_task(self.config, self.run), self.device, wait)

    def __call__(self) -> dict[str, Any]:
        from submitit.helpers import TorchDistributedEnvironment

        from d2it.training.stop import Stalled, Stopped

        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's, for Slurm's time limit
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if self.alive is not None:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
            threading.Thread(target=_end_with, args=(self.alive,), daemon=True).start()
            (self.alive.parent / f"{os.getpid()}.pid").touch()
        else:
            os.environ["MASTER_ADDR"] = _address(os.environ["MASTER_ADDR"])
        try:
            self.train()
        except UserError as error:
            if self.alive is None and isinstance(error, Stalled):
                raise  # srun ends the process that stands still only if this one fails
            return {"error": str(error)}
        except Stopped as stopped:
            if self.alive is None and stopped.signum == signal.SIGUSR2 and callable(requeue):
                requeue(stopped.signum, None)
            while self.alive is None and stopped.signum == signal.SIGTERM:
                time.sleep(1)  # preempted or cancelled: Slurm knows which, requeues or not, ends us
            return {"stopped": stopped.signum}
        return {}

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


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


def _end_with(alive: Path) -> None:
    """Stop, as if asked to, once the process that has locked `alive` is gone, be it by kill -9."""
    with open(alive, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        while True:  # submitit drops signals until training takes them
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def run_here(plan: Plan, job: Job, processes: int, gpus: int) -> None:
    """Train in `processes` processes of this machine, which end when this one does."""
    import submitit

    from d2it.training.stop import SIGNALS, Stopped

    folder = plan.folder / "submitit"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job.alive = (folder / "alive").resolve()
    with open(job.alive, "w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        executor = submitit.AutoExecutor(folder.resolve(), cluster="local")
        executor.update_parameters(tasks_per_node=processes, gpus_per_node=gpus, timeout_min=YEAR)
        if gpus and "CUDA_VISIBLE_DEVICES" in os.environ:
            named = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
            executor.update_parameters(local_visible_gpus=tuple(int(name) for name in named))
        os.environ |= {"MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": str(job.threads)}
        # Ctrl-C reaches all processes of a terminal. Children inherit that it is ignored; workers
        # take signals up again, and submitit's process between us must not end before them.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        submitted = executor.submit(job)
        received: list[int] = []

        def note(signum: int, _: Any) -> None:
            received.append(signum)

        signal.signal(signal.SIGINT, handler)
        handlers = {signum: signal.signal(signum, note) for signum in SIGNALS}
        try:
            with _follow(plan) as show:
                failed_at = None
                while not submitted.done():
                    show()
                    time.sleep(POLL)
                    if failed_at is None and _has_failed(submitted):
                        failed_at = time.monotonic()
                    if failed_at is not None and time.monotonic() > failed_at + GRACE:
                        _kill(folder)  # one that stands still hears nothing else
                    if (
                        received
                    ):  # again and again: submitit drops signals until training takes them
                        with suppress(ProcessLookupError):  # a local job is named by its process
                            os.kill(int(submitted.job_id), signal.SIGTERM)
        finally:
            for signum, previous in handlers.items():
                signal.signal(signum, previous)
        try:
            _settle(plan, submitted)
        except Stopped as stopped:
            raise Stopped(received[0] if received else stopped.signum) from None
    shutil.rmtree(folder)


def _has_failed(submitted: "submitit.Job[Any]") -> bool:
    """Whether a process left an error; one that was told to stop may leave while others save."""
    from submitit.core.utils import pickle_load

    results = [submitted.task(i).paths.result_pickle for i in range(submitted.num_tasks)]
    left = [pickle_load(path) for path in results if path.exists()]
    return any(outcome == "error" or "error" in result for outcome, result in left)


def _kill(folder: Path) -> None:
    for path in folder.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(path.stem), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_on_slurm(plan: Plan, job: Job, resources: "Resources") -> None:
    """Submit a job, or find the one submitted before, and wait. A signal only ends the waiting."""
    from d2it.training.stop import SIGNALS, Stopped

    record = plan.folder / "job.json"
    submitted = _recorded(plan, record) or _submit(plan, job, resources)
    tasks = resources.nodes * resources.processes
    write_json(record, {"job": submitted.job_id, "tasks": tasks})
    print(f"{plan.run}: Slurm job {submitted.job_id}", file=sys.stderr)

    def detach(signum: int, _: Any) -> None:
        print(f"{plan.run}: Slurm job {submitted.job_id} goes on without us", file=sys.stderr)
        raise Stopped(signum)

    handlers = {signum: signal.signal(signum, detach) for signum in SIGNALS}
    try:
        with _follow(plan) as show:
            while not submitted.done():
                show()
                time.sleep(10 * POLL)
    finally:
        for signum, previous in handlers.items():
            signal.signal(signum, previous)
    record.unlink(missing_ok=True)
    _settle(plan, submitted)


def _recorded(plan: Plan, record: Path) -> "submitit.Job[Any] | None":
    """The job that an earlier command submitted, if it is still pending or running."""
    import submitit

    if not record.is_file():
        return None
    known = read_json(record, made_by=f"d2it train {plan.run}")
    folder = (plan.folder / "submitit").resolve()
    job: submitit.Job[Any] = submitit.SlurmJob(folder, known["job"], range(known["tasks"]))
    return None if job.done(force_check=True) else job


def _submit(plan: Plan, job: Job, resources: "Resources") -> "submitit.Job[Any]":
    import submitit

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "There is no Slurm here (sbatch was not found): log in to a submit node, or use "
            "--launcher local."
        )
    folder = (plan.folder / "submitit").resolve()
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=REQUEUES)
    options = {"requeue": True, "comment": str(plan.folder.resolve())}
    if resources.account:
        options["account"] = resources.account
    executor.update_parameters(
        name=plan.folder.name,
        nodes=resources.nodes,
        tasks_per_node=resources.processes,
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus,
        timeout_min=resources.minutes,
        slurm_partition=resources.partition,
        slurm_constraint=resources.constraint,
        slurm_additional_parameters=options | resources.extra,
        slurm_srun_args=["--kill-on-bad-exit=1"],  # the others wait for it in vain
    )
    try:
        return executor.submit(job)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(
            f"Slurm refused the job of {plan.run} ({' '.join(str(error).split())})."
        ) from None


@contextmanager
def _follow(plan: Plan) -> Iterator[Any]:
    """Show what is added to the run's log.txt, wherever it is written."""
    path = plan.folder / "log.txt"
    place = path.stat().st_size if path.is_file() else 0

    def show() -> None:
        nonlocal place
        if path.is_file():
            with open(path) as file:
                file.seek(place)
                for line in file:
                    print(f"{plan.run}: {line[20:]}", end="", file=sys.stderr)
                place = file.tell()

    try:
        yield show
    finally:
        show()


def _settle(plan: Plan, submitted: "submitit.Job[Any]") -> None:
    """The end of a job: silence if all went well, else the clearest of what its processes left."""
    from d2it.training.stop import Stopped

    tasks = [submitted.task(i) for i in range(submitted.num_tasks)]
    ended = [task for task in tasks if task.paths.result_pickle.exists()]
    results = [task.result() for task in ended if task.exception() is None]
    for result in results:
        if "error" in result:
            raise UserError(result["error"])
    # A process that was killed leaves nothing; the others then fail for want of it.
    failed = [task for task in tasks if task not in ended]
    failed += [task for task in ended if task.exception() is not None]
    if failed:
        log = failed[0].paths.stderr
        if log.is_file():
            print("".join(log.read_text().splitlines(keepends=True)[-SHOWN:]), file=sys.stderr)
        rank = tasks.index(failed[0])
        raise UserError(
            f"Process {rank} of the training of {plan.run} died (its log: {log}): the same command "
            "goes on from the last saved state."
        )
    first = tasks[0].result()  # of the others, what is left may be from before a requeue
    if "stopped" in first:
        raise Stopped(first["stopped"])
