"""Batches ahead of time: in order and to the bit, whichever thread is done first."""

import threading
import time

import numpy as np
import torch

from d2it.clock import Order
from d2it.training.batches import AHEAD, Batches
from tests.tiny_run import TRAINING, TinyTask


class Uneven(TinyTask):
    """Every other step takes long to read; what each thread reckons with is noted."""

    def __init__(self) -> None:
        super().__init__(TRAINING)
        self.calls, self.threads = 0, {}

    def fetch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        self.threads[threading.current_thread().name] = torch.get_num_threads()
        self.calls += 1
        time.sleep(0.02 * (self.calls % 2))
        return super().fetch(indices)


def test_steps_are_taken_in_order_and_no_more_than_a_few_wait() -> None:
    torch.set_num_threads(1)
    task, steps, batch = Uneven(), 12, 8
    batches = Batches(task, Order(0, task.size), 0, batch, 2, range(1, 2), pin=False)
    alone = [batches._prepare(images) for images in range(0, steps * batch, batch)]
    task.calls, task.threads = 0, {}
    batches.start(0, steps * batch)
    for taken, expected in enumerate(alone):
        [shard] = batches.take()
        assert all(torch.equal(shard[name], tensor) for name, tensor in expected[0].items())
        assert task.calls <= taken + 1 + AHEAD
    batches.close()
    assert task.calls == steps
    assert list(task.threads.values()) == [1] * AHEAD and AHEAD > 1
