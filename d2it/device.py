"""Where a stage computes: one GPU if there is one, else CPU threads (D2IT_THREADS, default 1)."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from d2it.config.schema import Precision
from d2it.errors import UserError

Device = torch.device | str


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


def find_accelerator() -> torch.device | None:
    """What computes instead of the CPU, if anything does: a CUDA GPU, or the device that accelerate
    is told to take (ACCELERATE_TORCH_DEVICE).
    """
    named = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if named:
        device = torch.device(named)
        return None if device.type == "cpu" else device
    return torch.device("cuda") if torch.cuda.is_available() else None


def choose_device() -> torch.device:
    """The device of this process; on a CPU also its number of threads."""
    torch.set_num_threads(cpu_threads())
    return find_accelerator() or torch.device("cpu")


def device_name(device: Device) -> str:
    """As its driver calls a GPU; else the CPU. Equal names compute the same bits."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def send(tensor: Tensor, device: Device) -> Tensor:
    """A CPU's tensor on the device, by way of pinned memory: the host goes on meanwhile."""
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def processor() -> str:
    """The CPU and the widest vectors that torch uses on it: another kind rounds otherwise."""
    name = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = (models or [name])[0]
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def multiplies_bf16() -> bool:
    """Whether this CPU does so itself: one that only imitates it takes 15 times as long as in fp32
    and more, one that does takes half as long.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """torch.compile each block by itself: equal blocks share their code, so it takes seconds.

    A network within a list, as a RefineNet, is not one of them, but its blocks are.
    """
    for blocks in network.modules():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                if not any(isinstance(part, nn.ModuleList) for part in block.modules()):
                    block.compile(backend=backend)


@contextmanager
def arithmetic(device: Device, precision: Precision) -> Iterator[None]:
    """What matrix products are computed in; all else, and what they return to, stays fp32.

    fp32 is torch's own: convolutions take TF32 on a GPU, the products of linear layers and of
    attention do not. tf32: they do too; a CPU knows none, and computes the same as in fp32.
    bf16: autocast.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(torch.device(device).type, torch.bfloat16, precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
