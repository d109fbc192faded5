"""Several GPUs of a node: do they sum right and fast, and have two the same weights after steps?

Processes meet as those of a training do, each with a GPU; with a simulated device two of the CPU
by gloo. Of the steps, gradients travel once in each, with its last shard; blocks are compiled where
the scale compiles them. The discriminator rests in the first step and works in the second.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks.first_hour.setting import DRAWN, DVAE, Found, Setting, is_slow, not_finite, spell
from benchmarks.training import stepping
from d2it.config.run import run_of
from d2it.cost.macs import parameters
from d2it.files import read_json, write_json
from d2it.jobs.local import free_port
from d2it.models.architecture import architecture
from d2it.runs.plan import make_plan
from d2it.training.loop import make_accelerator
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer

PATIENCE = 300.0  # seconds
TIMES = 5  # sums
PART = 0.25  # of a step's share that its sum may take: the plan counts none
PROCESSES, STEPS = 2, 2  # of a training that is shared
RESULT = Path("together.json")
REMEDY = (
    "see what NCCL_DEBUG=INFO tells; if NCCL_P2P_DISABLE=1 helps, the links between the GPUs are "
    "misconfigured (IOMMU, ACS): ask the administrator"
)


def summed(setting: Setting) -> Found:
    """All GPUs of the node, as training shares its gradients: GB/s, and whether they add up."""
    processes = 2 if setting.simulated else torch.cuda.device_count()
    if processes == 1:
        return Found("one GPU: nothing to sum")
    sentence = answers("sum", processes, setting)
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


def trained(setting: Setting, run: str) -> Found:
    if not setting.simulated and torch.cuda.device_count() < PROCESSES:
        return Found("one GPU: nothing to share")
    log = Path.cwd().parent / f"together-{run}.log"
    sentence = answers("train", PROCESSES, setting, run)
    if sentence:
        return Found("", wrong=f"{sentence}: read {log}, and report it")
    told = read_json(RESULT, made_by="make first-hour")
    return Found(f"{STEPS} steps in {PROCESSES} processes", wrong=verdict(setting, run, **told))


def verdict(setting: Setting, run: str, bad: int, apart: int) -> str:
    if bad >= 0:
        return not_finite(bad, run_of(setting.config, run).kind)
    if apart:
        return f"{apart} tensors differ between the GPUs: train on one, and report this"
    return ""


def answers(what: str, processes: int, setting: Setting, *words: str) -> str:
    """Start so many processes of this module and wait; what went wrong, if anything did."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": "lo",  # a node's name need not resolve
    }
    environment.pop("ACCELERATE_TORCH_DEVICE", None)  # a simulated device has no one to talk to
    where = ["cpu", "simulated"] if setting.simulated else ["cuda", ""]
    command = [sys.executable, "-m", __spec__.name, what, setting.gpu, *where, *words]
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(processes)
    ]
    deadline = time.monotonic() + PATIENCE
    try:
        while any(one.poll() is None for one in ranks):
            if any(one.poll() for one in ranks):
                return "a process died"
            if time.monotonic() > deadline:
                return f"the GPUs have not answered each other for {PATIENCE:g} s"
            time.sleep(0.2)
        return "a process died" if any(one.returncode for one in ranks) else ""
    finally:
        for one in ranks:
            one.kill()
            one.wait()


def sum_numbers(setting: Setting, device: str) -> None:
    """One process: as many fp32 numbers as the largest network has gradients."""
    run = run_of(setting.config, DRAWN)
    accelerator = make_accelerator(make_plan(run), device)
    size = parameters(run.kind, architecture(run))["trainable"]
    gradients = torch.empty(size, device=accelerator.device)
    expected = sum(range(1, accelerator.num_processes + 1))
    rounds, right = [], True
    for _ in range(1 + TIMES):
        gradients.fill_(accelerator.process_index + 1)
        accelerator.wait_for_everyone()
        began = time.perf_counter()
        distributed.all_reduce(gradients)
        right &= gradients[-1].item() == expected  # waits for the device
        rounds.append(time.perf_counter() - began)
        right &= bool((gradients == expected).all())
    seconds = statistics.median(rounds[1:])  # the first one sets up the connections
    leave(accelerator, {"seconds": seconds, "bytes": 4 * size, "right": right})


def take_steps(setting: Setting, device: str, run: str) -> None:
    """One process."""
    config = setting.config
    if run == DVAE:  # of the others it would name another first stage
        start = config.training.dvae.batch
        config = replace(config, dvae_loss=replace(config.dvae_loss, gan_start=start))
    trainer, step = stepping(make_plan(run_of(config, run)), make_task(run_of(config, run)), device)
    for _ in range(STEPS):
        step()
    leave(trainer.accelerator, {"bad": int(trainer.first_bad), "apart": differing(trainer)})


def differing(trainer: Trainer) -> int:
    """How many tensors of the networks are not the first process's, in any process."""
    apart = 0
    for learner in trainer.learners.values():
        for tensor in learner.module.state_dict().values():
            first = tensor.clone()
            distributed.broadcast(first, 0)
            equal = torch.equal(first, tensor)
            total = torch.tensor(float(not equal), device=trainer.device)
            distributed.all_reduce(total)
            apart += bool(total.item())
    return apart


def leave(accelerator: Any, found: dict[str, Any]) -> None:
    if accelerator.is_main_process:
        write_json(RESULT, found)
    accelerator.end_training()


if __name__ == "__main__":
    what, gpu, device, simulated, *words = sys.argv[1:]
    one: Callable[..., None] = sum_numbers if what == "sum" else take_steps
    one(Setting(gpu, bool(simulated)), device, *words)
