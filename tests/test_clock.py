"""Images seen as a clock: the order of images, milestones, seeds, and averages over it."""

import numpy as np
import pytest
import torch

from d2it.clock import Order, crossed, generator, milestone, seed_of
from d2it.training.ema import Ema


def test_order_is_a_permutation_per_epoch() -> None:
    order = Order(0, 10)
    stream = order.indices(0, 50)
    assert all(sorted(stream[i : i + 10]) == list(range(10)) for i in range(0, 50, 10))
    assert len({tuple(stream[i : i + 10]) for i in range(0, 50, 10)}) == 5
    assert np.array_equal(Order(0, 10).indices(7, 23), stream[7:30])
    assert not np.array_equal(Order(1, 10).indices(0, 50), stream)


def test_clock() -> None:
    assert milestone(0.34, 6400, 32) == 2176
    assert milestone(0.0, 6400, 32) == 32
    assert milestone(1.0, 1000, 32) == 992
    assert [i for i in range(16, 161, 16) if crossed(i, 16, 48)] == [48, 96, 144]
    assert seed_of(0, "a", 1) != seed_of(0, "a", 2)
    draw = torch.randn(4, generator=generator(0, "dit", 5))
    assert torch.equal(draw, torch.randn(4, generator=generator(0, "dit", 5)))


def test_average_forgets_half_in_a_half_life() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    ema = Ema(module, half_life=320, batch=32)
    torch.nn.init.zeros_(module.weight)
    for _ in range(10):
        ema.update()
    assert ema.state_dict()["weight"].item() == pytest.approx(0.5)
    assert Ema(module, 0, 32).state_dict()["weight"].item() == 0
