"""Faults that cannot be had from outside without a machine of one's own, put into a process."""

import os
import shutil
import signal
from collections import namedtuple


def between_micro_batches(images: int) -> None:
    """SIGKILL after the first of a step's micro-batches, its gradients half accumulated."""
    from d2it.training.second_stage import CodesTask

    loss = CodesTask.loss

    def deadly(self, player, networks, batch, images_seen):
        self.calls = getattr(self, "calls", 0) + 1 if images_seen == images else 0
        if self.calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(self, player, networks, batch, images_seen)

    CodesTask.loss = deadly


def nearly_full_disk(free: int) -> None:
    """A disk with `free` bytes left, as the operating system would tell."""
    usage = namedtuple("usage", "total used free")
    shutil.disk_usage = lambda path: usage(2 * free, free, free)
