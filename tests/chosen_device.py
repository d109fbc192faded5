"""Which device d2it and accelerate take, within a block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.state import AcceleratorState, GradientState, PartialState

CHOICE = "ACCELERATE_TORCH_DEVICE"  # what accelerate, and d2it with it, takes for the device


@contextmanager
def chosen(device: str) -> Iterator[None]:
    before = os.environ.get(CHOICE)
    os.environ[CHOICE] = device
    forget_accelerator()
    try:
        yield
    finally:
        os.environ.pop(CHOICE)
        if before is not None:
            os.environ[CHOICE] = before
        forget_accelerator()


def forget_accelerator() -> None:
    """Accelerate keeps its first choice of a device as long as the process lives."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    GradientState._reset_state()
