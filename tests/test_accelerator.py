"""Training on a device that is not the CPU: no tensor is left behind, nothing waits, same numbers.

Every kind of run takes steps on the simulated accelerator and on the CPU. The first step may wait
for what is sent once; in later ones the host may not wait at all, but where windows are counted.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

import tests.simulated as simulated
from d2it.config import Config
from d2it.config.run import run_of
from d2it.runs import state
from d2it.runs.plan import make_plan
from d2it.training import loop
from d2it.training.batches import Shards
from d2it.training.loop import make_accelerator
from d2it.training.saver import Saver
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer
from tests import steps, tiny_run
from tests.forked_run import fingerprint
from tests.simulated import Mixed, Wait
from tests.steps import Batch, Outcome, assert_close, assert_equal
from tests.steps import config as config  # the fixture
from tests.test_transformers import change

SWITCHES = dict(
    positions="fixed", grain_loss=True, normalise_loss=True, bias="global", heads=3,
    share_condition=False, qk_norm=True,
)  # fmt: skip


def waiting(trainer: Trainer, images: int) -> AbstractContextManager[list[Wait]]:
    return simulated.waits()


def train(config: Config, run: str, device: str = "sim:0", **changes: object) -> Outcome:
    """The steps of a run on the simulated accelerator or on another device, with their waits."""
    return steps.train(config, run, device, waiting, **changes)


def assert_only_uploads(waits: list[Wait]) -> None:
    """Tables of the schedule, the kernel of entropies or the weights of LPIPS: sent once."""
    assert {wait.what for wait in waits} <= {"copy from pageable memory"}


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        ("grain", {}),
        ("grain_classes", {"shards": 1, "clip": None}),
        ("grain_three", {"weight_decay": 0.1}),
        ("d2it_b", {"shards": 4}),
        ("d2it_b", {"checkpointing": True, "ema_half_life": 0.0}),
        ("d2it_xl_classes", {}),
        ("d2it_b_three", {"warmup": 64, "snapshot_images": 0}),
        ("dit_b", {"checkpointing": True}),
        ("dit_xl_classes", {}),
    ],
)
def test_steps_wait_for_nothing_and_give_the_cpus_numbers(config, run, changes):
    found = train(config, run, **changes)
    assert_only_uploads(found.waits[0])
    assert found.waits[1:] == [[], []]
    assert_equal(found, train(config, run, "cpu", **changes))


@pytest.mark.parametrize(
    ("run", "changes"), [("dvae", {"checkpointing": True}), ("dvae_three", {"shards": 4})]
)
def test_the_first_stage_with_its_discriminator_resting_and_at_work(config, run, changes):
    """To rounding: backward through GroupNorm, torch keeps images channels-last on a CPU alone."""
    found = train(config, run, **changes)
    assert_only_uploads(found.waits[0])
    assert found.waits[1:] == [[], []]
    expected = train(config, run, "cpu", **changes)
    assert {"loss/discriminator", "d_weight", "fine_share", "std_1"} <= set(found.means)
    assert_close(found, expected, 1e-4)


def test_all_switches(config):
    changed = change(config, "content", "d2it_b_three", **SWITCHES)
    found = train(changed, "d2it_b_three")
    assert found.waits[1:] == [[], []]
    assert_equal(found, train(changed, "d2it_b_three", "cpu"))


def test_skipped_windows_are_counted_once_a_network_and_shard(config):
    """Their number is a shape, which the host has to know."""
    changed = change(config, "content", "d2it_b_three", skip_windows=True)
    found = train(changed, "d2it_b_three")
    for waits in found.waits[1:]:
        assert [wait.what for wait in waits] == ["nonzero"] * 4  # two RefineNets, two shards
    assert_equal(found, train(changed, "d2it_b_three", "cpu"))


@pytest.mark.parametrize("run", ["dvae", "grain", "d2it_b_three", "dit_b"])
def test_steps_in_bf16(config, run):
    """By autocast with CUDA's choice of operations: 8 bits, not the CPU's numbers."""
    found = train(config, run, precision="bf16")
    assert found.waits[1:] == [[], []]
    exact = train(config, run, "cpu")
    assert found.means != exact.means
    assert_close(found, exact, 0.05)


def test_a_resumed_run_has_the_cpus_files(tmp_path, monkeypatch):
    """By the real loop, which waits where it logs and saves, and in no step."""
    seen: list[list[Wait]] = []
    step = Trainer.step

    def watched(self: Trainer, shards: Shards, images: int) -> None:
        with simulated.waits() as found:
            step(self, shards, images)
        seen.append(found)

    def run(folder: str, images: int, device: str) -> None:
        plan = tiny_run.tiny_plan(tmp_path / folder, images, snapshot_images=100)
        loop.train(plan, lambda: tiny_run.TinyTask(plan.training), device)

    run("cpu", 640, "cpu")
    monkeypatch.setattr(Trainer, "step", watched)
    with simulated.chosen(), simulated.waits() as waits:
        run("there", 496, "auto")
        run("there", 640, "auto")
    assert len(seen) == 40 and not any(seen)
    assert {"item", "copy to the CPU"} <= {wait.what for wait in waits}
    assert fingerprint(tmp_path / "there") == fingerprint(tmp_path / "cpu")


@pytest.mark.parametrize("run", ["dvae", "d2it_b_three"])
def test_a_state_of_a_real_run_is_taken_up_there(config, tmp_path, run):
    """What the saver has written after two steps is followed by the third, to the bit."""

    def go_on(trainer: Trainer, begin: int, end: int) -> None:
        batches = steps.batches_of(trainer, pin=True, begin=begin)
        for images in range(begin, end, steps.BATCH):
            trainer.step(batches.take(), images)
        batches.close()

    images, folder = 2 * steps.BATCH, tmp_path / "state"
    with simulated.chosen():
        first, saver = steps.make_trainer(config, run), Saver(simulated.DEVICE)
        go_on(first, 0, images)
        saver.put(first.contents(), lambda held: state.save(folder, images, held, {}))
        saver.wait()
        saver.close()
        second = steps.make_trainer(config, run)
        second.restore(state.open_state(folder))
        for trainer in (first, second):
            go_on(trainer, images, images + steps.BATCH)
    expected = first.contents()
    for stem, tensors in second.contents().items():
        assert set(tensors) == set(expected[stem])
        for name, tensor in tensors.items():
            assert tensor.device == expected[stem][name].device, name
            assert torch.equal(tensor.cpu(), expected[stem][name].cpu()), name


def planted(config: Config, fault: Callable[[Batch, Batch], None]) -> Outcome:
    """Steps of a task whose loss does something wrong with its batch or its log terms."""
    with simulated.chosen():
        plan, task = make_plan(run_of(config, "dit_b")), make_task(run_of(config, "dit_b"))
        honest = task.loss

        def loss(learner, networks, batch, images_seen):
            value, logs = honest(learner, networks, batch, images_seen)
            fault(batch, logs)
            return value, logs

        task.loss = loss
        return steps.take_steps(Trainer(plan, task, make_accelerator(plan, "auto")), waiting)


def test_a_number_of_the_cpu_among_the_log_terms_is_noticed(config):
    def fault(batch: Batch, logs: Batch) -> None:
        logs["share"] = torch.tensor(0.5)

    with pytest.raises(Mixed, match="stack: a CPU tensor"):
        planted(config, fault)


def test_an_index_left_on_the_cpu_is_noticed(config):
    def fault(batch: Batch, logs: Batch) -> None:
        logs["first"] = batch["noise"][torch.arange(1)].mean()

    with pytest.raises(Mixed, match="index: a CPU tensor"):
        planted(config, fault)


def test_a_wait_in_a_step_is_noticed_with_its_line(config):
    def fault(batch: Batch, logs: Batch) -> None:
        assert logs["mse_1"].item() > 0

    seen = planted(config, fault).waits
    assert [[wait.what for wait in waits] for waits in seen[1:]] == [["item"] * 2] * 2
    assert all(wait.where.startswith("training/trainer.py:") for wait in seen[1])


def test_a_blocking_upload_in_a_step_is_noticed(config):
    def fault(batch: Batch, logs: Batch) -> None:
        logs["share"] = torch.tensor(0.5, device=batch["noise"].device)

    assert all(planted(config, fault).waits)
