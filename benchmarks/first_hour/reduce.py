"""Sums over all GPUs of the node, as training shares its gradients: GB/s, and whether they add up.

Processes meet as those of a training do. With a simulated device two of the CPU sum through gloo.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.first_hour.outcome import Found, is_slow, spell
from benchmarks.first_hour.processes import answers
from benchmarks.first_hour.setting import DRAWN, Setting
from d2it.config.run import run_of
from d2it.cost.macs import parameters
from d2it.files import read_json, write_json
from d2it.models.architecture import architecture
from d2it.runs.plan import make_plan
from d2it.training.loop import make_accelerator

TIMES = 5
RESULT = Path("reduced.json")
PART = 0.25  # of a step's share that its sum may take: the plan counts none
REMEDY = (
    "see what NCCL_DEBUG=INFO tells; if NCCL_P2P_DISABLE=1 helps, the links between the GPUs are "
    "misconfigured (IOMMU, ACS): ask the administrator"
)


def reduced(setting: Setting) -> Found:
    processes = 2 if setting.simulated else torch.cuda.device_count()
    if processes == 1:
        return Found("one GPU: nothing to sum")
    sentence = answers("reduce", processes, setting)
    if sentence:
        return Found(f"{processes} processes", wrong=f"{sentence}: {REMEDY}")
    found = read_json(RESULT, made_by="make first-hour")
    seconds, moved = found["seconds"], found["bytes"]
    # each GPU sends and receives this much, whatever the algorithm: NCCL's "bus bandwidth"
    speed = 2 * (processes - 1) / processes * moved / seconds / 1e9
    step = setting.plan.step(DRAWN) / processes
    text = f"{processes} x {moved / 1e9:.2g} GB in {spell(seconds)}, {speed:.3g} GB/s"
    expected = f"at most {PART:.0%} of a step's {spell(step)}"
    wrong = "" if found["right"] else f"the sum is wrong: {REMEDY}"
    return Found(text, expected, wrong, is_slow(setting, seconds, PART * step))


def main(gpu: str, device: str, simulated: str) -> None:
    """One process: as many fp32 numbers as the largest network has gradients."""
    config = Setting(gpu, bool(simulated)).config
    plan = make_plan(run_of(config, DRAWN))
    accelerator = make_accelerator(plan, device)
    size = parameters(plan.kind, architecture(run_of(config, DRAWN)))["trainable"]
    gradients = torch.empty(size, device=accelerator.device)
    expected = sum(range(1, accelerator.num_processes + 1))
    rounds, right = [], True
    for _ in range(1 + TIMES):
        gradients.fill_(accelerator.process_index + 1)
        accelerator.wait_for_everyone()
        began = time.perf_counter()
        torch.distributed.all_reduce(gradients)
        right &= gradients[-1].item() == expected  # waits for the device
        rounds.append(time.perf_counter() - began)
        right &= bool((gradients == expected).all())
    if accelerator.is_main_process:
        seconds = statistics.median(rounds[1:])  # the first one sets up the connections
        write_json(RESULT, {"seconds": seconds, "bytes": 4 * size, "right": right})
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
