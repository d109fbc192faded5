"""Faults that cannot be had from outside without a machine of one's own, put into a process."""

import os
import shutil
import signal
import threading
from collections import namedtuple
from pathlib import Path

BATCH = 4  # as in runs.py


def between_micro_batches(images: int) -> None:
    """SIGKILL after the first of a step's micro-batches, its gradients half accumulated."""
    from d2it.training.transformers import CodesTask

    loss = CodesTask.loss

    def deadly(self, learner, networks, batch, images_seen):
        self.calls = getattr(self, "calls", 0) + 1 if images_seen == images else 0
        if self.calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(self, learner, networks, batch, images_seen)

    CodesTask.loss = deadly


def two_steps_into_a_write(images: int) -> None:
    """SIGKILL in a step, while the state of two steps before still wants its last file."""
    from d2it.runs import state

    digests = state.folder_files

    def endless(folder: Path):
        if f"{images:012d}" in folder.name:
            threading.Event().wait()
        return digests(folder)

    state.folder_files = endless
    between_micro_batches(images + 2 * BATCH)


def nearly_full_disk(free: int) -> None:
    """A disk with `free` bytes left, as the operating system would tell."""
    usage = namedtuple("usage", "total used free")
    shutil.disk_usage = lambda path: usage(2 * free, free, free)
