"""Steps of every kind of run on a GPU: nothing waits, and they come close to the CPU's."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from d2it.training.trainer import Trainer
from tests.steps import assert_close, train
from tests.steps import config as config  # the fixture

RUNS = ["dvae", "grain_classes", "d2it_b_three", "dit_xl_classes"]
TOLERANCES = {"fp32": 0.01, "bf16": 0.05}


@contextmanager
def forbidden_waits(trainer: Trainer, images: int) -> Iterator[list[None]]:
    """Torch itself raises where the host would wait, in all steps but the first; but not for a copy
    from memory that is not pinned, of which test_pinned.py knows.
    """
    if trainer.device.type != "cuda":
        yield []
        return
    torch.cuda.set_sync_debug_mode("error" if images else "default")
    try:
        yield []
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("device", "run", "precision"),
    [
        ("cpu", "d2it_b_three", "fp32"),
        *(
            pytest.param("cuda", run, precision, marks=pytest.mark.gpu)
            for run in RUNS
            for precision in TOLERANCES
        ),
    ],
)
def test_steps(config, monkeypatch, device, run, precision):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = train(config, run, device, forbidden_waits, precision=precision)
    assert_close(found, train(config, run, "cpu"), TOLERANCES[precision])
