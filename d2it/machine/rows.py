"""Sums over many features, block by block: on the device, or by all CPUs.

Blocks begin at fixed rows and each is computed by one thread; results come in order. So a CPU
gives the same bits whatever the number of its threads.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from d2it.machine.device import Device, arithmetic
from d2it.machine.pools import cpus, in_order, threads

Result = TypeVar("Result")
TOGETHER = 512  # rows of a matrix of products held at once


def by_rows(
    compute: Callable[[slice], Result], n: int, device: Device, step: int = TOGETHER
) -> Iterator[Result]:
    """`compute` of each `step` of n rows, in turn."""
    rows = [slice(start, start + step) for start in range(0, n, step)]
    if torch.device(device).type != "cpu":
        yield from map(compute, rows)
        return
    count = min(cpus(), len(rows))
    with threads(count) as pool, libraries().limit(limits=1, user_api="blas"):
        yield from in_order(pool, 2 * count, compute, rows)


@cache
def libraries() -> ThreadpoolController:
    """Of this process, which have threads of their own, as NumPy's. To look for them takes 2 ms."""
    return ThreadpoolController()


def products(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ: of n and m vectors, (n, d) and (m, d) -> (n, m)."""
    if x.device.type != "cpu":
        with arithmetic(x.device, "fp32"):  # whatever the caller computes in
            return x @ y.T
    # NumPy's BLAS: it takes 128 ms where torch's takes 152, and half of that where y is x.
    return torch.from_numpy(x.numpy() @ y.numpy().T)
