"""Where a stage computes: one GPU if there is one, else CPU threads (D2IT_THREADS, default 1)."""

import os

import torch
from torch import nn

from d2it.errors import UserError


def cpu_threads() -> int:
    """Threads of a process on a CPU. They never change what is drawn, but may change last bits of
    sums: one thread is what makes numbers repeatable.
    """
    try:
        threads = int(os.environ.get("D2IT_THREADS", "1"))
    except ValueError:
        threads = 0
    if threads < 1:
        raise UserError("D2IT_THREADS must be a whole number of CPU threads, e.g. 1.")
    return threads


def choose_device() -> torch.device:
    """The device of this process; on a CPU also its number of threads."""
    torch.set_num_threads(cpu_threads())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """torch.compile each block by itself: equal blocks share their code, so it takes seconds.

    A network within a list, as a RefineNet, is not one of them, but its blocks are.
    """
    for blocks in network.modules():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                if not any(isinstance(part, nn.ModuleList) for part in block.modules()):
                    block.compile(backend=backend)
