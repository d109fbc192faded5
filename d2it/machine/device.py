"""Where a stage computes: one GPU if there is one, else CPU threads (D2IT_THREADS, default 1)."""

import ctypes
import functools
import os
import platform
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from d2it.config.types import Precision
from d2it.errors import UserError
from d2it.machine.gpus import shown_gpus, visible_gpus

Device = torch.device | str
SHAPES = 64  # that a block may be compiled for, each by itself
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in glibc's malloc.h


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


def set_up_cpu() -> None:
    """The number of threads can change a sum's last bit."""
    torch.set_num_threads(cpu_threads())
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let freed blocks stay with the process, for the next tensor.

    glibc returns large ones to the kernel, which clears every page anew. Elsewhere there is nothing
    to set.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        if not mallopt(M_MMAP_THRESHOLD, 2**30):
            mallopt(M_MMAP_THRESHOLD, 2**25)  # all that older ones take
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def find_accelerator() -> torch.device | None:
    """What computes instead of the CPU, if anything does: a CUDA GPU, or the device that accelerate
    is told to take (ACCELERATE_TORCH_DEVICE).
    """
    named = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if named:
        try:
            device = torch.device(named)
        except RuntimeError:
            raise UserError(
                f"ACCELERATE_TORCH_DEVICE is {named}, which is no device of torch: name one, e.g. "
                "cuda or cpu, or unset it."
            ) from None
        if device.type == "cuda" and ":" in named:  # each process would take it, or fail
            raise UserError(
                f"ACCELERATE_TORCH_DEVICE is {named}, but a GPU is not chosen by it: unset it, and "
                f"set CUDA_VISIBLE_DEVICES={device.index}."
            )
        return None if device.type == "cpu" else device
    if has_cuda():
        return torch.device("cuda")
    if torch.version.cuda and shown_gpus() and visible_gpus():
        raise UserError(
            f"{socket.gethostname()} has a GPU that torch cannot use ({cuda_error('cuda')}): this "
            f"torch wants a driver for CUDA {torch.version.cuda}; update it, or compute on the CPU "
            "with an empty CUDA_VISIBLE_DEVICES in the environment."
        )
    if torch.version.cuda and shown_gpus() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        _warn_of_closed_gpus()
    return None


@functools.cache  # once a process
def _warn_of_closed_gpus() -> None:
    print(
        f"d2it: warning: {socket.gethostname()} has GPUs, but this process may open none, and "
        "computes on the CPU: for a GPU ask Slurm for one (--gpus=1), or the administrator for "
        "access to /dev/nvidia*; an empty CUDA_VISIBLE_DEVICES says that the CPU is meant.",
        file=sys.stderr,
    )


def choose_device() -> torch.device:
    """The device of this process; on a CPU also its number of threads."""
    set_up_cpu()
    device = find_accelerator() or torch.device("cpu")
    check_gpu(device)
    take_fp32()
    return device


def take_fp32() -> None:
    """fp32 is fp32 until `arithmetic` says otherwise: TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which
    NVIDIA's containers set, begins with TF32.
    """
    torch.set_float32_matmul_precision("highest")


def has_cuda() -> bool:
    with warnings.catch_warnings():  # of a driver that is too old, which is a sentence of ours
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def check_gpu(device: torch.device) -> None:
    """Refuse a GPU that cannot add one and one: it may be full, held by another process, broken, or
    of a kind that this torch was not built for."""
    if device.type == "cuda" and (error := cuda_error(device)):
        index, names = device.index or 0, visible_gpus()  # torch counts from 0 within these
        gpu = names[index] if index < len(names) else index
        raise UserError(
            f"GPU {gpu} of {socket.gethostname()} cannot compute ({error}): see with nvidia-smi "
            "whether something else holds it, or use another."
        )


def cuda_error(device: Device) -> str | None:
    """What torch says if a GPU is asked for one sum: its first sentence."""
    try:
        torch.ones(1, device=device).add_(1).item()
        return None
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")


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
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
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

    A network within a list, as a RefineNet, is not one of them, but its blocks are. What is
    traced for a shape never depends on those met before (`dynamic`).
    """
    for blocks in network.modules():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                if not any(isinstance(part, nn.ModuleList) for part in block.modules()):
                    # of more than torch's 8 shapes, the later ones would not be compiled
                    block.compile(backend=backend, dynamic=False, recompile_limit=SHAPES)


def compile_on(device: Device, network: nn.Module) -> None:
    """Compile its blocks, but never on a CPU: what is computed there stays as it is."""
    if torch.device(device).type != "cpu":
        compile_blocks(network)


def any_length(tensor: Tensor) -> Tensor:
    """The same, which compiled blocks take by the same code whatever its length, if that is not 1:
    of other dimensions, and of unmarked tensors, each length has code of its own. Kernels are tuned
    for the length met first, which sums over other dimensions should not feel: on a CPU the bytes
    are the same in any order, on a GPU it was not measured.
    """
    if "torch._dynamo" in sys.modules:  # where anything is compiled; to load it takes a second
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor


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
