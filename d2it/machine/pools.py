"""Work that others do meanwhile, its results in order: threads of this process, or processes.

No torch is imported here, so that processes that decode images stay small.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def cpus() -> int:
    """Those that this process may use: what Slurm, a container or taskset leave it."""
    return len(os.sched_getaffinity(0))


def in_order(
    pool: Executor, ahead: int, call: Callable[[Job], Result], jobs: Iterable[Job]
) -> Iterator[Result]:
    """`map` that asks for no more than `ahead` results before the first is taken."""
    waiting: deque[Future[Result]] = deque()
    for job in jobs:
        waiting.append(pool.submit(call, job))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Each computes by itself, so that how many there are changes no bit of what a job gives."""
    import torch

    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    with pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(torch.get_num_threads())  # of threads that begin later
