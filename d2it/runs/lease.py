"""The lease of a run folder: one trains there at a time, and says that it lives."""

import fcntl
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from d2it.errors import UserError
from d2it.files import write_json

HEARTBEAT = 5.0  # seconds between two beats of a lease


PATIENCE = (
    5.0  # seconds that a lease may take to become free: a process that was told to stop is saving
)


SILENCE = 4  # beats that a holder on another host must miss to be taken for dead


@contextmanager
def lease(folder: Path, wait: bool = False) -> Iterator[None]:
    """Be the only one who trains in `folder`, or say who is.

    A lock settles it on one machine, also after kill -9. On network file systems locks may be local
    to a host, so the holder also leaves a heartbeat: it must fall silent before we believe it dead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heartbeat = folder / "heartbeat.json"
    with open(folder / "lock", "a", encoding="utf-8") as lock:
        _acquire(lock.fileno(), heartbeat, wait)
        _beat(heartbeat, 0)
        ended = threading.Event()

        def beat() -> None:
            for count in itertools.count(1):
                if ended.wait(HEARTBEAT):
                    return
                with suppress(OSError):  # a full disk stops training when it saves, not here
                    _beat(heartbeat, count)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            heartbeat.unlink(missing_ok=True)


def _beat(heartbeat: Path, count: int) -> None:
    value = {"host": socket.gethostname(), "pid": os.getpid(), "beat": count, "time": time.time()}
    write_json(heartbeat, value)


def await_free(folder: Path, wait: bool) -> None:
    """Return once nobody holds the lease; the sentence of who does if that takes too long."""
    if folder.is_dir():
        with open(folder / "lock", "a", encoding="utf-8") as lock:
            _acquire(lock.fileno(), folder / "heartbeat.json", wait)


@contextmanager
def launching(folder: Path, wait: bool) -> Iterator[None]:
    """Be the only one whose processes come together to train in `folder`: they meet in its files
    before the first of them can hold the lease.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "launch.lock", "a", encoding="utf-8") as lock:
        _acquire(lock.fileno(), folder / "heartbeat.json", wait)
        await_free(folder, wait)  # processes outlive a launcher that was killed
        yield


def _acquire(lock: int, heartbeat: Path, wait: bool) -> None:
    patience = time.monotonic() + PATIENCE
    while not _locked(lock):
        if not wait and time.monotonic() > patience:
            raise _in_use(heartbeat)
        time.sleep(0.1)
    first = _read_heartbeat(heartbeat)
    if first is None or first["host"] == socket.gethostname():
        return  # nobody, or one who died on this host: its lock went with it
    silence = time.monotonic() + SILENCE * HEARTBEAT
    while time.monotonic() < silence:
        time.sleep(0.5)
        seen = _read_heartbeat(heartbeat)
        if seen is None:
            return
        if seen != first:
            if not wait:
                raise _in_use(heartbeat)
            first, silence = seen, time.monotonic() + SILENCE * HEARTBEAT


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _read_heartbeat(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _in_use(heartbeat: Path) -> UserError:
    holder = _read_heartbeat(heartbeat)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return UserError(
        f"{heartbeat.parent} is being trained by {who}: wait for it (`--wait` does), or stop it, "
        "and run the same command again."
    )
