"""The processes of one run: how long they wait for each other, how many fit, their threads."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from d2it.errors import UserError
from d2it.jobs.local import free_port
from d2it.runs.signals import stall_timeout
from tests import tiny_run
from tests.forked import PROCESSES
from tests.forked_run import errors, run


@pytest.mark.parametrize("minutes", ["soon", "0", "nan", "inf"])
def test_patience_is_a_number_of_minutes(monkeypatch: pytest.MonkeyPatch, minutes: str) -> None:
    assert stall_timeout().total_seconds() == 600
    monkeypatch.setenv("D2IT_STALL_MINUTES", minutes)
    with pytest.raises(UserError, match=f"D2IT_STALL_MINUTES is '{minutes}'"):
        stall_timeout()


@pytest.mark.parametrize("threads", ["some", "0", "1.5"])
def test_threads_are_a_whole_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    from d2it.training.loop import make_accelerator

    monkeypatch.setenv("D2IT_THREADS", threads)
    with pytest.raises(UserError, match="D2IT_THREADS must be a whole number"):
        make_accelerator(tiny_run.tiny_plan(tmp_path), "cpu")


def test_a_process_that_never_comes_is_given_up_before_a_gpu_waits(tmp_path: Path) -> None:
    """By gloo, in half the time that NCCL has until its watchdog aborts the process."""
    port, told = free_port(), tmp_path / "told"
    ranks = [
        PROCESSES.Process(target=tiny_run.meet, args=(rank, port, "0.02", str(told)))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    ranks[0].join(60)
    ranks[1].kill()
    assert ranks[0].exitcode == 0 and "0.02 minutes (D2IT_STALL_MINUTES)" in told.read_text()


@pytest.mark.parametrize(("gpus", "patience"), [(False, 600), (True, 1200)])
def test_nccl_has_twice_the_patience_of_gloo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: bool, patience: int
) -> None:
    from d2it.training import loop

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    asked: dict[str, Any] = {"device": torch.device("cpu")}
    monkeypatch.setattr(loop, "Accelerator", lambda **given: SimpleNamespace(**asked | given))
    made: Any = loop.make_accelerator(tiny_run.tiny_plan(tmp_path), "auto")
    [group] = [h for h in made.kwargs_handlers if hasattr(h, "timeout")]
    assert group.timeout.total_seconds() == patience


def test_shards_and_processes_must_fit(tmp_path: Path) -> None:
    assert run(tmp_path / "run", "shards=1", world=2) == 2
    assert "2 processes cannot share the 1 shards" in errors(tmp_path / "run")
