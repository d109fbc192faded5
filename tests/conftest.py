"""Fixtures of more than one file of tests, and how a worker of pytest computes."""

import functools
import gc
import importlib
import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import Any

import pytest

from d2it.config.load import compose

# What the shell of a background job ignores, its children ignore too: Ctrl-C ends commands here.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # until all is imported: it would look through millions of objects that stay


def pytest_collection_finish() -> None:
    import torch  # here: the process that hands tests to workers does without

    torch.set_num_threads(1)  # a worker a core: threads of one would wait for those of another
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()
    if "tests.forked" in sys.modules:  # before a test changes the folder: it imports from tests/
        forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def known_compositions():
    """Hydra puts the same files and overrides together once for all tests of a worker."""
    load = importlib.import_module("d2it.config.load")
    slow = load.interpolated
    known = functools.cache(lambda overrides, files: slow(overrides))

    def interpolated(overrides: Sequence[str] = ()) -> Any:
        files = sorted(load.params_folder().resolve().rglob("*.yaml"))
        return known(tuple(overrides), tuple((path, path.stat().st_mtime_ns) for path in files))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "interpolated", interpolated)
        yield


@pytest.fixture(scope="session")
def params():
    """A composed configuration, so that commands need not compose one: change a copy."""
    return compose()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a training that nothing happened to."""
    from tests import forked_run

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert forked_run.run(folder) == 0, forked_run.errors(folder)
    found = forked_run.fingerprint(folder)
    assert len(found) == 1 + 4 + 2 * 2
    return found
