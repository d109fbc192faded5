"""`d2it` as a user types it, in this process, where imports are paid once.

What a limit, a signal or memory decides needs a process of its own: tests/forked.py.
"""

import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import torch

from d2it import cli

Done = subprocess.CompletedProcess[str]
SILENT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def command(*words: str, cwd: Path | str = ".", **environment: str) -> Done:
    """In this process: its exit code and what it and its children print. Nothing else stays."""
    told: list[str] = []
    with chdir(cwd), mock.patch.dict(os.environ, environment), _undisturbed(), _printed(told):
        try:
            code = cli.main(words)
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(words, code, *told)


@contextmanager
def _printed(told: list[str]) -> Iterator[None]:
    """What is written to standard output and error meanwhile, also by children and as warnings."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
                warnings.showwarning = _show
                for category in SILENT:  # as at an interpreter's start
                    warnings.simplefilter("ignore", category)
                yield
        finally:
            for place, old in zip((1, 2), kept, strict=True):
                os.dup2(old, place)
                os.close(old)
            for file in (out, err):
                file.seek(0)
                told.append(file.read())


def _show(message, category, filename, lineno, file=None, line=None) -> None:
    print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr)


@contextmanager
def _undisturbed() -> Iterator[None]:
    handlers = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
    assert {signum: signal.getsignal(signum) for signum in handlers} == handlers
