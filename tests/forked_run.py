"""Training runs of milliseconds (tests/tiny_run.py) in processes of their own, to be killed."""

import time
from pathlib import Path

from d2it.jobs.local import free_port
from tests import tiny_run
from tests.forked import PROCESSES

SLOW = "pause=0.02"  # 40 steps in half a second, two at a time: time to be killed in


def start(folder: Path, *settings: str, world: int = 1) -> list:
    port = free_port()
    started = [
        PROCESSES.Process(target=tiny_run.child, args=(str(folder), settings, rank, world, port))
        for rank in range(world)
    ]
    for process in started:
        process.start()
    return started


def end(started: list) -> int:
    """The first exit code that is not 0 (negative: killed by that signal)."""
    for process in started:
        process.join(60)
        assert process.exitcode is not None, "a process hangs"
    return next((p.exitcode for p in started if p.exitcode), 0)


def run(folder: Path, *settings: str, world: int = 1) -> int:
    return end(start(folder, *settings, world=world))


def errors(folder: Path) -> str:
    return Path(f"{folder}.err").read_text()


def await_images(folder: Path, images: int) -> None:
    """Wait until a run has saved its state at `images`, or later."""
    for _ in range(600):
        if any(int(p.name) >= images for p in (folder / "state").glob("[0-9]*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"{folder} does not reach {images} images: {errors(folder)}")


def fingerprint(folder: Path, images: int = 640) -> dict[str, bytes]:
    """All that must not depend on what happened on the way."""
    root = folder / "state"
    files = [folder / "done.json", *(root / f"{images:012d}").iterdir()]
    files += [path for mark in root.glob("milestone-*") for path in mark.iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
