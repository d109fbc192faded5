"""Processes forked from one that has done what they all begin with: tests/preloaded.py.

They are processes of their own: with an exit code and limits, to be killed and stopped, and without
what a test has changed in its own.
"""

import gc
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.preloaded"])
PATIENCE = 120


class Forked:
    """`python -m MODULE WORDS` in the folder `cwd`, whose files may have `limit` bytes."""

    def __init__(
        self, module: str, *words: str, cwd: Path | str = ".", limit: int = -1, **environment: str
    ) -> None:
        self.args = [module, *words]
        pipes = [PROCESSES.Pipe(duplex=False) for _ in ("out", "err")]
        writers = [writer for _, writer in pipes]
        given = (self.args, os.path.abspath(cwd), writers, limit, os.environ | environment)
        self.process = PROCESSES.Process(target=_become, args=given)
        self.process.start()
        self.pid = self.process.pid or 0
        for writer in writers:
            writer.close()
        self.readers = ThreadPoolExecutor(len(pipes))
        self.lines: list[str] = []  # of what it has printed until now
        self.told = [
            self.readers.submit(_read, reader, lines)
            for (reader, _), lines in zip(pipes, (self.lines, []), strict=True)
        ]

    def kill(self) -> None:
        self.process.kill()

    def poll(self) -> int | None:
        return self.process.exitcode

    returncode = property(poll)

    def wait(self, limit: float = PATIENCE) -> int:
        self.process.join(limit)
        if (code := self.process.exitcode) is None:
            raise subprocess.TimeoutExpired(self.args, limit)
        return code

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait for it -> its exit code (negative: a signal) and what it has printed."""
        self.process.join(PATIENCE)
        if (code := self.process.exitcode) is None:
            self.kill()
        told = [reading.result() for reading in self.told]
        self.readers.shutdown()
        assert code is not None, f"{self.args} hangs: {told}"
        return subprocess.CompletedProcess(self.args, code, *told)


def _read(pipe: Connection, lines: list[str]) -> str:
    with pipe, open(pipe.fileno(), encoding="utf-8", closefd=False) as file:
        for line in file:
            lines.append(line)
    return "".join(lines)


def _become(
    args: list[str], cwd: str, told: list[Connection], limit: int, environment: dict[str, str]
) -> None:
    gc.freeze()  # what was imported is not looked through again and again
    for place, pipe in enumerate(told, start=1):
        os.dup2(pipe.fileno(), place)
        pipe.close()
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if limit >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = args
    runpy.run_module(args[0], run_name="__main__", alter_sys=True)
