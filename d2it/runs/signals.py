"""Signals that ask a run to end: finish the step, save, leave, all processes at the same step."""

import os
import signal
from datetime import timedelta
from types import FrameType
from typing import Any

from d2it.errors import UserError

YEAR = 365 * 24 * 60  # minutes
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def stall_timeout() -> timedelta:
    """How long a process waits for the others before it gives up: D2IT_STALL_MINUTES, else 10."""
    given = os.environ.get("D2IT_STALL_MINUTES", "10")
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0
    if not 0 < minutes < YEAR:
        raise UserError(
            f"D2IT_STALL_MINUTES is {given!r}, but must be a number of minutes, e.g. 10."
        )
    return timedelta(minutes=minutes)


class Stopped(Exception):
    """A run was asked to stop, and did after saving its state."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Detached(Exception):
    """Only who waited for Slurm was asked to stop: its job, or array of jobs, goes on."""

    def __init__(self, who: str, job: str, signum: int):
        super().__init__(
            f"Slurm job {job} goes on with {who}: the same command waits for it again, and "
            f"`scancel {job}` stops it."
        )
        self.signum = signum


class Stalled(UserError):
    """Another process of the run stands still: whoever started both must end it."""


class Stop:
    """While entered, signals are only noted; `asked`, called once a step, says which to obey."""

    def __init__(self, processes: int) -> None:
        from torch import distributed

        self.received = 0
        self.previous: dict[int, Any] = {}
        # On the CPU, whatever the device: no step waits for a GPU to learn about signals.
        self.group = None
        if processes > 1:
            self.group = distributed.new_group(backend="gloo", timeout=stall_timeout())
        self.pending: Any = None
        self.shared: Any = 0

    def __enter__(self) -> "Stop":
        for signum in SIGNALS:
            self.previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        if self.pending is not None and kind is None:
            self.pending.wait()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum

    def asked(self) -> int:
        """The signal to obey after this step, or 0. Processes agree one step late, at no wait."""
        if self.group is None:
            return self.received
        import torch
        from torch import distributed

        agreed = 0
        if self.pending is not None:
            self.pending.wait()
            agreed = int(self.shared)
        self.shared = torch.tensor(self.received)
        self.pending = distributed.all_reduce(
            self.shared, distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        return agreed

    def meet(self) -> None:
        """Wait for the other processes to end this step too. A GPU that waits for them holds up its
        host where no sentence can be said; here it can, and they are as near as they ever are."""
        if self.pending is not None:
            self.pending.wait()
