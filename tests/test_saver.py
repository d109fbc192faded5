"""Saving beside training: what is written is what was there, whole, one after another."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tests.simulated as simulated
from d2it.errors import UserError
from d2it.runs import state
from d2it.runs.signals import Stopped
from d2it.training.loop import Loop, make_accelerator
from d2it.training.saver import Contents, Saver
from tests.saved import saved_twice
from tests.tiny_run import TinyTask, tiny_plan

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", [CPU, simulated.DEVICE])
def test_what_is_written_is_what_was_there(tmp_path: Path, device: torch.device) -> None:
    saved_twice(tmp_path, device)


def test_the_host_does_not_wait_for_a_gpu(tmp_path: Path) -> None:
    """Copies are made by the device, into pinned memory."""
    saver = Saver(simulated.DEVICE)
    with simulated.waits() as found:
        saver.put({"model": {"weight": torch.ones(3, device=simulated.DEVICE)}}, lambda held: None)
    saver.close()
    assert not found


def test_training_goes_on_during_a_write_and_the_next_waits_for_it() -> None:
    events: list[str] = []
    saver, go_on = Saver(CPU), threading.Event()

    def first(held: Contents) -> None:
        assert go_on.wait(10)
        events.append("first")

    saver.put({}, first)
    saver.check()
    assert events == []  # it is going on, and nobody waits
    threading.Timer(0.1, go_on.set).start()
    saver.put({}, lambda held: events.append("second"))
    assert events[0] == "first"
    saver.close()
    assert events == ["first", "second"]


@pytest.mark.parametrize("look", [Saver.check, Saver.wait, lambda saver: saver.put({}, print)])
def test_a_write_that_failed_is_heard_of_once(look: Callable[[Saver], None]) -> None:
    saver, failed = Saver(CPU), threading.Event()

    def write(held: Contents) -> None:
        try:
            raise UserError("no space")
        finally:
            failed.set()

    saver.put({}, write)
    assert failed.wait(10)
    while saver.running is not None and not saver.running.done():
        pass
    with pytest.raises(UserError, match="no space"):
        look(saver)
    saver.check()
    saver.close()


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A training whose disk is slow."""
    digests = state.folder_files

    def slow(folder: Path) -> dict:
        time.sleep(0.3)
        return digests(folder)

    monkeypatch.setattr(state, "folder_files", slow)
    plan = tiny_plan(tmp_path, milestones=(208,))
    return Loop(plan, TinyTask(plan.training), make_accelerator(plan, "cpu"), 0.0)


def test_a_signal_and_the_end_wait_for_the_disk(loop: Loop) -> None:
    plan = loop.plan
    loop.stop.received = signal.SIGTERM
    with pytest.raises(Stopped):
        loop.run()
    assert state.read(state.state_folder(plan.state, 16)).images == 16
    Loop(plan, TinyTask(plan.training), loop.accelerator, 0.0).run()
    assert (plan.folder / "done.json").exists()
    for folder in (state.state_folder(plan.state, 640), state.milestone_folder(plan.state, 208)):
        state.read(folder)
    assert sorted(path.name for path in plan.state.iterdir()) == [
        "000000000560",
        "000000000640",
        "milestone-208",
    ]


@pytest.mark.parametrize("images", [16, 80, 640])
def test_a_disk_that_fills_up_ends_the_run_with_its_sentence(
    loop: Loop, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the last write of all, or that of a signal: no step would hear of these."""
    loop.stop.received = signal.SIGTERM if images == 16 else 0
    save = state.save

    def full(folder: Path, at: int, *rest: object) -> None:
        if at == images:
            raise UserError("free some space")
        save(folder, at, *rest)

    monkeypatch.setattr(state, "save", full)
    with pytest.raises(UserError, match="free some space"):
        loop.run()
    assert not (loop.plan.folder / "done.json").exists()
    assert not state.state_folder(loop.plan.state, images).exists()
