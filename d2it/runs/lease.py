"""Leases: one process at a time trains in a run folder, or makes what others take as finished."""

import fcntl
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from d2it.config.documents import told
from d2it.config.paths import runs_folder
from d2it.errors import UserError
from d2it.files import canonical_digest, write_json
from d2it.shares import Share

HEARTBEAT = 5.0  # seconds between two beats of a lease
PATIENCE = 5.0  # seconds that it may take to become free: who was told to stop is saving
SILENCE = 4  # beats that a holder on another host must miss to be taken for dead
LOCK, HEARTBEATS = "lock", "heartbeat.json"


class Heartbeat(TypedDict):
    """heartbeat.json: who holds a lease; each beat differs."""

    host: str
    pid: int


@contextmanager
def lease(folder: Path, wait: bool = False) -> Iterator[None]:
    """Be the only one who trains in `folder`, or say who is.

    A lock settles it on one machine, also after kill -9. On network file systems locks may be local
    to a host, so the holder also leaves a heartbeat: it must fall silent before we believe it dead.
    """
    with _holding(folder, LOCK, wait, _trained(folder)), _beating(folder):
        yield


@contextmanager
def making(
    place: Path,
    wait: bool,
    share: Share | None = None,
    leases: Path | None = None,
    verb: str = "made",
) -> Iterator[None]:
    """Be the only one who computes `place`, or this share of it, or say who is. None computes a
    share while another puts all of them together.

    The lease is in the folder of runs, of which nothing is tracked or declared, and goes when it
    ends; in the folder `leases` of a place that is shared by who has runs of his own.
    """
    name = f"{place.name}-{canonical_digest(str(place.resolve()))[:8]}"
    whole, being_made = (leases or runs_folder() / ".leases") / name, f"{place} is being {verb}"
    if share is not None:
        one = whole.with_name(f"{name}-{share.part}-of-{share.parts}")
        with ExitStack() as stack:
            with _holding(whole, LOCK, wait, being_made, shared=True):  # until ours can be seen
                stack.enter_context(_passing(one, wait, f"Share {share} of {being_made}"))
            yield
        return
    with _passing(whole, wait, being_made):
        shares = sorted(whole.parent.glob(f"{name}-*"))
        _await_silence(shares, wait, f"A share of {being_made}")
        for one in shares:
            with _passing(one, wait, f"A share of {being_made}"):
                pass
        yield


@contextmanager
def _passing(folder: Path, wait: bool, busy: str) -> Iterator[None]:
    """A lease that leaves no folder behind."""
    with _holding(folder, LOCK, wait, busy):
        try:
            with _beating(folder):
                yield
        finally:
            with suppress(OSError):  # it holds what a kill has left, or others hold leases
                (folder / LOCK).unlink()
                for empty in (folder, folder.parent, folder.parent.parent):
                    empty.rmdir()


@contextmanager
def _beating(folder: Path) -> Iterator[None]:
    heartbeat = folder / HEARTBEATS
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
        with _holding(folder, LOCK, wait, _trained(folder)):
            pass


@contextmanager
def launching(folder: Path, wait: bool) -> Iterator[None]:
    """Be the only one whose processes come together to train in `folder`: they meet in its files
    before the first of them can hold the lease.
    """
    with _holding(folder, "launch.lock", wait, _trained(folder)):
        await_free(folder, wait)  # processes outlive a launcher that was killed
        yield


def _trained(folder: Path) -> str:
    return f"{folder} is being trained"


@contextmanager
def _holding(
    folder: Path, name: str, wait: bool, busy: str, shared: bool = False
) -> Iterator[None]:
    """The lock `name` of `folder`, alone or with all who share it. `busy`: how the sentence begins
    if it cannot be had.
    """
    lock = _acquire(folder, name, wait, busy, shared)
    try:
        yield
    finally:
        os.close(lock)


def _acquire(folder: Path, name: str, wait: bool, busy: str, shared: bool) -> int:
    patience = time.monotonic() + PATIENCE
    while True:
        lock = _locked(folder / name, shared)
        if lock is not None:
            try:
                _await_silence([folder], wait, busy)
                if _is_there(lock, folder / name):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
        elif not wait and time.monotonic() > patience:
            raise _in_use(folder, busy)
        else:
            time.sleep(0.1)


def _locked(path: Path, shared: bool) -> int | None:
    """Its descriptor; None: another holds it, or took it away meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileNotFoundError, FileExistsError):  # who ended took the folder away
        if path.parent.is_file():
            raise
        return None
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return lock
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise


def _is_there(lock: int, path: Path) -> bool:
    """Whether others find this very file: a lease that ended takes its own away."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _await_silence(folders: Iterable[Path], wait: bool, busy: str) -> None:
    """Until no other host is heard in any of them; a heartbeat that stands still is taken away.

    Who died on this host is not waited for: his lock went with him.
    """
    seen = {folder: _read_heartbeat(folder) for folder in folders}
    first = {
        folder: beat
        for folder, beat in seen.items()
        if beat is not None and beat["host"] != socket.gethostname()
    }
    silence = time.monotonic() + SILENCE * HEARTBEAT
    while first and time.monotonic() < silence:
        time.sleep(0.5)
        for folder, before in list(first.items()):
            now = _read_heartbeat(folder)
            if now is None:
                del first[folder]
            elif now != before:
                if not wait:
                    raise _in_use(folder, busy)
                first[folder], silence = now, time.monotonic() + SILENCE * HEARTBEAT
    for folder in first:
        (folder / HEARTBEATS).unlink(missing_ok=True)


def _read_heartbeat(folder: Path) -> Heartbeat | None:
    return told(Heartbeat, folder / HEARTBEATS)


def _in_use(folder: Path, busy: str) -> UserError:
    holder = _read_heartbeat(folder)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return UserError(
        f"{busy} by {who}: wait for it (`--wait` does), or stop it, and run the same command again."
    )
