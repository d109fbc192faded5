"""What a node may lack: memory of its GPU, for a run or while it goes on; a compiler."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from d2it.cost.memory import shortage
from d2it.errors import UserError, compile_sentence, is_out_of_memory
from d2it.runs.plan import Plan


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
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        cure = "use a GPU with more memory" if plan.need is None else plan.need.cure()
        raise UserError(
            f"The GPU's memory was full in the training of {plan.run}: {cure}, or end what else "
            "computes there (nvidia-smi shows it); the same command then goes on from the last "
            "saved state."
        ) from None


@contextmanager
def able_to_compile(plan: Plan) -> Iterator[None]:
    """A sentence where blocks cannot be compiled; the run's log has the traceback."""
    try:
        yield
    except RuntimeError as error:
        sentence = compile_sentence(error, f"training.{plan.kind}")
        if sentence is None:
            raise
        raise UserError(sentence) from None
