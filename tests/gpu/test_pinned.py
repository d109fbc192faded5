"""Copies that nobody waits for: both ways they go through memory that is really pinned."""

from pathlib import Path

import pytest
import torch

from d2it.clock import Order
from d2it.machine.device import send
from d2it.training.batches import Batches
from tests.saved import saved_twice
from tests.tiny_run import TRAINING, TinyTask

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_is_copied_into_pinned_memory(tmp_path: Path, device: str) -> None:
    saver = saved_twice(tmp_path, torch.device(device))
    assert len(saver.buffers) == 3
    assert {buffer.is_pinned() for buffer in saver.buffers.values()} == {device == "cuda"}


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_from_pinned_memory(device: str) -> None:
    task = TinyTask(TRAINING)
    batches = Batches(task, Order(0, task.size), 0, 8, 2, range(2), pin=device != "cpu")
    batches.start(0, 8)
    shards = batches.take()
    batches.close()
    assert {t.is_pinned() for shard in shards for t in shard.values()} == {device == "cuda"}


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_sent_arrives(device: str) -> None:
    """Though its pinned copy is given up at once: torch keeps it until the GPU has it."""
    sent = [send(torch.full((2**20,), float(i)), device) for i in range(8)]
    assert [tensor.device.type for tensor in sent] == [device] * 8
    assert [tensor.unique().tolist() for tensor in sent] == [[float(i)] for i in range(8)]


@pytest.mark.gpu
def test_nobody_waits_for_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    ways, pin = [], torch.Tensor.pin_memory

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        ways.append(pin(tensor))
        return ways[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    send(torch.ones(3), "cuda")
    assert [tensor.is_pinned() for tensor in ways] == [True]
