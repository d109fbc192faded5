"""The training loop on a task of milliseconds. What kills and damages do to it: tests/faults."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor

from d2it.cli import system_sentence
from d2it.clock import Order
from d2it.errors import UserError
from d2it.machine.device import multiplies_bf16
from d2it.runs import state
from d2it.training.loop import train
from tests import tiny_run
from tests.forked_run import SLOW, await_images, end, errors, fingerprint, run, start


def test_two_processes_are_one(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    assert run(tmp_path / "run", world=2) == 0, errors(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == undisturbed


def test_number_of_processes_changes(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """2 → 1 → 2: stopped by a signal to one of two, killed alone, finished by two."""
    folder = tmp_path / "run"
    both = start(folder, SLOW, world=2)
    await_images(folder, 80)
    os.kill(both[1].pid, signal.SIGTERM)
    assert end(both) == 128 + signal.SIGTERM, errors(folder)
    alone = start(folder, SLOW)
    await_images(folder, 320)
    alone[0].kill()
    assert end(alone) == -signal.SIGKILL
    assert run(folder, world=2) == 0, errors(folder)
    assert fingerprint(folder) == undisturbed
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert [s["processes"] for s in starts] == [2, 1, 2]


@pytest.fixture(scope="module")
def in_four_shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("shards") / "run"
    assert run(folder, "shards=4") == 0, errors(folder)
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return state.open_state(folder / "state" / f"{640:012d}").tensors("raw")


@pytest.mark.parametrize("world", [2, 4])
def test_four_shards_in_any_number_of_processes(
    tmp_path: Path, in_four_shards: dict[str, torch.Tensor], world: int
) -> None:
    """Sums of four terms depend on their order, so beyond two shards it is equality to 1e-4."""
    folder = tmp_path / "run"
    assert run(folder, "shards=4", world=world) == 0, errors(folder)
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, in_four_shards[name], rtol=1e-4, atol=1e-4)


def test_four_shards_in_one_number_of_processes(
    tmp_path: Path, in_four_shards: dict[str, torch.Tensor]
) -> None:
    """Accumulated, stopped and gone on with: bitwise."""
    folder = tmp_path / "run"
    assert run(folder, "shards=4", "images=320") == 0, errors(folder)
    assert run(folder, "shards=4") == 0, errors(folder)
    assert "resumed at 320/640" in errors(folder)
    assert all(torch.equal(t, in_four_shards[name]) for name, t in weights(folder).items())


def test_bf16_goes_on_bitwise(tmp_path: Path) -> None:
    """Autocast on the CPU, with a warning where that is slow; weights, moments and averages stay in
    fp32."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, "precision=bf16") == 0, errors(whole)
    assert run(parts, "precision=bf16", "images=320") == 0, errors(parts)
    assert run(parts, "precision=bf16") == 0, errors(parts)
    assert fingerprint(parts) == fingerprint(whole)
    assert ("imitates bf16" in errors(whole)) == (not multiplies_bf16())
    assert all(t.dtype == torch.float32 for t in weights(whole).values())


@pytest.mark.parametrize("world", [1, 2])
def test_loss_that_is_not_finite(tmp_path: Path, world: int) -> None:
    """It stops everywhere, also where the bad shard was not; what is on disk is from before."""
    folder = tmp_path / "run"
    assert run(folder, "fail_at=320", world=world) == 2
    assert "not finite in step 20" in errors(folder)
    dump = json.loads((folder / "bad-step-20.json").read_text())
    assert dump["images"] == 320
    assert dump["indices"] == Order(tiny_run.SEED, 100).indices(320, 16).tolist()
    newest = state.latest(folder / "state", 640, (), print)
    assert newest is not None and newest.images == 320
    for stem in ("model", "raw", "rest"):
        assert all(torch.isfinite(t).all() for t in newest.tensors(stem).values())


def test_masked_updates_leave_everything_as_it_was(tmp_path: Path) -> None:
    """From the first bad step on, nothing changes although the host does not look, but averages,
    which stay finite and are never saved.
    """
    from d2it.training.loop import Loop, make_accelerator

    plan = tiny_run.tiny_plan(tmp_path, milestones=())
    task = tiny_run.TinyTask(plan.training, fail_at=320)
    loop = Loop(plan, task, make_accelerator(plan, "cpu"), 0.0)
    loop.batches.start(0, 640)
    before = None
    for images in range(0, 640, 16):
        if images == 320:
            contents = loop.trainer.contents()
            before = {(s, k): t.clone() for s, ts in contents.items() for k, t in ts.items()}
        loop.trainer.step(loop.batches.take(), images)
    loop.batches.close()
    assert before is not None and int(loop.trainer.first_bad) == 20
    for stem, tensors in loop.trainer.contents().items():
        for name, tensor in tensors.items():
            if stem == "model":
                assert tensor.isfinite().all(), name
            else:
                assert torch.equal(tensor, before[stem, name]), name
    with pytest.raises(UserError, match="not finite in step 20"):
        loop._save(640)
    assert not plan.state.exists()


def test_longer_run_extends(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Also from an end that is no multiple of the log interval."""
    folder = tmp_path / "run"
    assert run(folder, "images=496") == 0
    assert json.loads((folder / "done.json").read_text())["images"] == 496
    assert run(folder) == 0
    assert "resumed at 496/640" in errors(folder)
    assert fingerprint(folder) == undisturbed


def test_a_node_without_a_compiler_is_one_sentence(tmp_path):
    """Blocks are compiled in the first step; here, by a real compiler call before it."""

    def make_task():
        torch.compile(lambda x: torch.sin(x) + x.cos())(torch.ones(8))

    missing = {"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}
    with inductor.patch(missing), pytest.raises(UserError) as error:
        train(tiny_run.tiny_plan(tmp_path / "run"), make_task, "cpu")
    assert "load a C and C++ compiler" in str(error.value)
    assert "training.dit.compile=false" in str(error.value) and "\n" not in str(error.value)
    with inductor.patch(missing), pytest.raises(RuntimeError) as raised:
        make_task()  # as any other verb meets it
    assert "sampling.compile=false" in (sentence := system_sentence(raised.value))
    assert "\n" not in sentence


def test_a_compiler_that_fails_is_not_called_missing(tmp_path, monkeypatch):
    """A backend's own error: the cure is told, and the log keeps the traceback for a report."""

    def failing(module, inputs):
        raise ValueError("no such lowering")

    def loss(learner, networks, batch, images_seen):
        return torch.compile(lambda x: x.sin(), backend=failing)(torch.ones(8))

    plan = tiny_run.tiny_plan(tmp_path / "run")
    task = tiny_run.TinyTask(plan.training)
    monkeypatch.setattr(task, "loss", loss)
    with pytest.raises(UserError, match=r"torch could not compile blocks \(.*no such lowering"):
        train(plan, lambda: task, "cpu")
    log = (plan.folder / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log and "in failing" in log
