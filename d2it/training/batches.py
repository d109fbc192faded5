"""Batches ahead of time: read and drawn in background threads while the network works.

Each process draws the normals of the whole batch, since torch's generator cannot skip those of the
others. On eight GPUs that takes longer than a step of B, in one thread; steps share nothing, so
several threads draw several steps, and are taken in order.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from d2it.clock import Order, generator
from d2it.training.task import Task

AHEAD = 2  # steps, each in a thread of its own

Shards = list[dict[str, Tensor]]


class Batches:
    """The shards of this process, step after step, each a function of images seen alone."""

    def __init__(
        self,
        task: Task,
        order: Order,
        seed: int,
        batch: int,
        shards: int,
        mine: range,
        pin: bool,
        noise: str | None = None,
    ):
        self.task, self.order, self.seed, self.noise = task, order, seed, noise or task.kind
        self.batch, self.size, self.mine, self.pin = batch, batch // shards, mine, pin
        self.waited = 0.0  # seconds since the last reset
        # one thread of arithmetic in each: the number of threads can change a sum's last bit
        threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(
            AHEAD, "batches", initializer=lambda: torch.set_num_threads(threads)
        )
        self.pending: deque[Future[Shards]] = deque()

    def start(self, images: int, end: int) -> None:
        self.next, self.end = images, end
        for _ in range(AHEAD):
            self._submit()

    def _submit(self) -> None:
        if self.next < self.end:
            self.pending.append(self.pool.submit(self._prepare, self.next))
            self.next += self.batch

    def _prepare(self, images: int) -> Shards:
        """The items of this process's shards, with their slice of the batch's random numbers."""
        rows = slice(self.mine.start * self.size, self.mine.stop * self.size)
        items = self.task.fetch(self.order.indices(images, self.batch)[rows])
        random = generator(self.seed, self.noise, images // self.batch)
        drawn = self.task.draw(random, self.batch, images)
        both = items | {name: tensor[rows] for name, tensor in drawn.items()}
        if self.pin:
            both = {name: tensor.contiguous().pin_memory() for name, tensor in both.items()}
        parts = {name: tensor.split(self.size) for name, tensor in both.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(self.mine))]

    def take(self) -> Shards:
        began = time.perf_counter()
        shards = self.pending.popleft().result()
        self.waited += time.perf_counter() - began
        self._submit()
        return shards

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
