"""Training in other processes: the work of each, through submitit, and those of this machine.

d2it/jobs/slurm_training.py does the same on a cluster.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.config.run import Run
from d2it.errors import UserError
from d2it.jobs import last_word
from d2it.runs.plan import Plan, make_plan
from d2it.runs.signals import YEAR

if TYPE_CHECKING:
    import submitit

GRACE = 5.0  # seconds that processes have to end in after one of them has failed
POLL = 0.2  # seconds between two looks at what a job left
SAID = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?!Traceback )")  # begins a line of log.txt


@dataclass
class TrainingWork:
    """The training that one process does its part of. submitit pickles and calls it."""

    run: Run
    device: str
    threads: int

    def train(self, plan: Plan, wait: bool = False) -> None:
        from d2it.training import loop
        from d2it.training.tasks import make_task

        os.environ.setdefault("D2IT_THREADS", str(self.threads))
        loop.train(plan, lambda: make_task(self.run), self.device, wait)


@dataclass
class LocalJob(TrainingWork):
    """As one of several processes of this machine."""

    alive: Path  # locked by the launching process while it lives
    gpus: list[str]  # as CUDA_VISIBLE_DEVICES names them, one to a process; submitit takes numbers

    def __call__(self) -> None:
        from submitit.helpers import TorchDistributedEnvironment

        from d2it.runs.signals import Stopped

        here = TorchDistributedEnvironment()
        here.export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        threading.Thread(target=_end_with, args=(self.alive,), daemon=True).start()
        _come(self.alive.parent, here.rank)
        word = self.alive.parent / f"{here.rank}.json"
        try:
            self.train(make_plan(self.run))
            last_word.write(word, None)
        except UserError as error:
            last_word.write(word, error)
        except Stopped as stopped:
            last_word.write(word, None, stopped=stopped.signum)
        except BaseException:
            last_word.write(word, None, died=True)
            raise


def _end_with(alive: Path) -> None:
    """Stop, as if asked to, once the process that has locked `alive` is gone, be it by kill -9."""
    with open(alive, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        while True:  # submitit drops signals until training takes them
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def _come(folder: Path, rank: int) -> None:
    """Leave <pid>.pid, which holds the rank and is locked for as long as this process lives."""
    path = folder / f"{os.getpid()}.pid"
    new = path.with_suffix(".new")
    lock = os.open(new, os.O_WRONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, str(rank).encode())
    new.rename(path)  # so none is seen without its lock


def _gone(folder: Path) -> list[int]:
    """The ranks of those that came and do not live any more."""
    ranks = []
    for path in folder.glob("*.pid"):
        with open(path, encoding="utf-8") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ranks.append(int(file.read()))
    return ranks


def run_here(plan: Plan, job: TrainingWork, processes: int, gpus: list[str]) -> None:
    """Train in `processes` processes of this machine, which end when this one does, on a GPU each
    or, if there are no `gpus`, on the CPU."""
    import submitit

    from d2it.runs.signals import SIGNALS, Stopped

    folder = plan.folder / "submitit"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    local = LocalJob(**vars(job), alive=(folder / "alive").resolve(), gpus=gpus)
    with open(local.alive, "w", encoding="utf-8") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        executor = submitit.AutoExecutor(folder.resolve(), cluster="local")
        executor.update_parameters(tasks_per_node=processes, timeout_min=YEAR)
        os.environ |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": str(job.threads)}
        # Ctrl-C reaches all processes of a terminal. Children inherit that it is ignored; workers
        # take signals up again, and submitit's process between us must not end before them.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        submitted = executor.submit(local)
        received: list[int] = []

        def note(signum: int, _: Any) -> None:
            received.append(signum)

        signal.signal(signal.SIGINT, handler)
        handlers = {signum: signal.signal(signum, note) for signum in SIGNALS}
        try:
            with follow(plan) as show:
                failed_at, lost = None, list[int]()
                while not submitted.done():
                    show()
                    time.sleep(POLL)
                    if failed_at is None:
                        gone = _gone(folder)  # before their words, which they leave before they go
                        words = _words(folder, processes)
                        # Killed before all have met, one is waited for by the others.
                        lost = [rank for rank in gone if words[rank] is None]
                        if lost or any(map(_has_failed, words)):
                            failed_at = time.monotonic()
                    if failed_at is not None and time.monotonic() > failed_at + GRACE:
                        _kill(folder)  # one that stands still hears nothing else
                    if received:  # again and again: submitit drops them until training takes them
                        with suppress(ProcessLookupError):  # a local job is named by its process
                            os.kill(int(submitted.job_id), signal.SIGTERM)
        finally:
            for signum, previous in handlers.items():
                signal.signal(signum, previous)
        try:
            _settle(plan, submitted, _words(folder, processes), lost)
        except Stopped as stopped:
            raise Stopped(received[0] if received else stopped.signum) from None
    shutil.rmtree(folder)


def _words(folder: Path, processes: int) -> list[last_word.Word | None]:
    return [last_word.read(folder / f"{rank}.json") for rank in range(processes)]


def _has_failed(word: last_word.Word | None) -> bool:
    """Unlike one that was told to stop, which may leave while others save."""
    return word is not None and bool(word["error"] or "died" in word)


def _kill(folder: Path) -> None:
    for path in folder.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(path.stem), signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def follow(plan: Plan) -> Iterator[Any]:
    """Show what is added to the run's log.txt, wherever it is written: tracebacks stay there."""
    path = plan.folder / "log.txt"
    place = path.stat().st_size if path.is_file() else 0

    def show() -> None:
        nonlocal place
        if path.is_file():
            with open(path, encoding="utf-8") as file:
                file.seek(place)
                for line in file:
                    if SAID.match(line):
                        print(f"{plan.run}: {line[20:]}", end="", file=sys.stderr)
                place = file.tell()

    try:
        yield show
    finally:
        show()


def _settle(
    plan: Plan, submitted: "submitit.Job[Any]", words: list[last_word.Word | None], lost: list[int]
) -> None:
    """The end of a job: silence if all went well, else the clearest of what its processes left."""
    from d2it.runs.signals import Stopped

    for word in words:
        if word and word["error"]:
            raise UserError(word["error"])
    # A process that was killed leaves nothing; the others then fail for want of it.
    failed = lost + [rank for rank, word in enumerate(words) if word is None]
    failed += [rank for rank, word in enumerate(words) if _has_failed(word)]
    if failed:
        log = submitted.task(failed[0]).paths.stderr
        last_word.show_end(log)
        raise UserError(
            f"Process {failed[0]} of the training of {plan.run} died (its log: {log}): the same "
            "command goes on from the last saved state."
        )
    for word in words:
        if word and "stopped" in word:
            raise Stopped(word["stopped"])
