"""What a node may lack: memory of its GPU, for a run or while it goes on; a compiler."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from d2it.errors import UserError
from d2it.models.memory import shortage
from d2it.training.run_folder import Plan


def check_room(plan: Plan, device: torch.device) -> None:
    """Before a run takes any of it. A UserError, or a warning where it may just suffice."""
    if plan.need is None or device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    sentence = shortage(plan.need, f"this {torch.cuda.get_device_name(device)}", total, free)
    if sentence:
        print(f"d2it: warning: {sentence}", file=sys.stderr)


@contextmanager
def enough_room(plan: Plan) -> Iterator[None]:
    """A sentence in place of CUDA's words when the memory is full all the same."""
    try:
        yield
    except torch.OutOfMemoryError:
        cure = "use a GPU with more memory" if plan.need is None else plan.need.cure()
        raise UserError(
            f"The GPU's memory was full in the training of {plan.run}: {cure}, or end what else "
            "computes there (nvidia-smi shows it); the same command then goes on from the last "
            "saved state."
        ) from None


@contextmanager
def able_to_compile(plan: Plan) -> Iterator[None]:
    """A sentence where blocks cannot be compiled: Triton and inductor call the node's compiler."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import BackendCompilerFailed  # seconds to import, and seldom needed

        if not isinstance(error, BackendCompilerFailed):
            raise
        told = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(
            f"Blocks cannot be compiled on this node ({told}): load a C and C++ compiler and "
            f"Python's headers, or set training.{plan.kind}.compile=false, which changes no recipe."
        ) from None
