"""States are written in a thread while training goes on: what they hold is copied first.

A GPU copies into pinned memory of the host between two steps, and nobody waits for it; hashing and
the disk are the thread's. Only the main process saves, so only it has the buffers: as large as a
state (torch rounds a pinned one up to a power of two).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from d2it.runs.state import Tensors

Contents = dict[str, Tensors]


class Saver:
    """One write at a time: the next copy waits for the write before, as its buffers do."""

    def __init__(self, device: torch.device):
        self.device = device
        self.pool = ThreadPoolExecutor(1, "save")
        self.running: Future[None] | None = None
        self.buffers: Tensors = {}  # kept: pinning memory takes longer than copying

    def put(self, contents: Contents, write: Callable[[Contents], None]) -> None:
        """Have `write` called with a copy of `contents`, which may change from now on."""
        self.wait()
        held = {
            stem: {name: self._copy(f"{stem}/{name}", tensor) for name, tensor in tensors.items()}
            for stem, tensors in contents.items()
        }
        copied = self._copied()

        def work() -> None:
            copied()
            write(held)

        self.running = self.pool.submit(work)

    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        buffer = self.buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype)
            self.buffers[key] = buffer = (
                buffer if self.device.type == "cpu" else buffer.pin_memory()
            )
        return buffer.copy_(tensor.detach(), non_blocking=True)

    def _copied(self) -> Callable[[], None]:
        """What waits until a GPU has made the copies: they come before the next step's work."""
        if self.device.type != "cuda":
            return lambda: None
        event = torch.cuda.Event(blocking=True)
        event.record()
        return event.synchronize

    def check(self) -> None:
        """Raise the error of a write that failed; one that is going on is left alone."""
        if self.running is not None and self.running.done():
            self.wait()

    def wait(self) -> None:
        """Until all is written."""
        running, self.running = self.running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Let the write that is going on end, whatever ended training."""
        self.pool.shutdown()
