"""Steps of a training that two GPUs share: do both have the same weights after them?

Gradients travel once a step, with its last shard; blocks are compiled where the scale compiles
them. The discriminator rests in the first step and works in the second.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from benchmarks.first_hour.outcome import Found
from benchmarks.first_hour.processes import answers
from benchmarks.first_hour.setting import DVAE, Setting
from benchmarks.training import stepping
from d2it.config.run import run_of
from d2it.files import read_json, write_json
from d2it.runs.plan import make_plan
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer

PROCESSES, STEPS = 2, 2
RESULT = Path("together.json")


def trained(setting: Setting, run: str) -> Found:
    if not setting.simulated and torch.cuda.device_count() < PROCESSES:
        return Found("one GPU: nothing to share")
    log = Path.cwd().parent / f"together-{run}.log"
    sentence = answers("together", PROCESSES, setting, run)
    if sentence:
        return Found("", wrong=f"{sentence}: read {log}, and report it")
    told = read_json(RESULT, made_by="make first-hour")
    return Found(f"{STEPS} steps in {PROCESSES} processes", wrong=verdict(setting, run, **told))


def verdict(setting: Setting, run: str, bad: int, apart: int) -> str:
    if bad >= 0:
        kind = run_of(setting.config, run).kind
        return (
            f"step {bad} gave a loss or gradient that is not finite: set "
            f"training.{kind}.precision=fp32, and report this"
        )
    if apart:
        return f"{apart} tensors differ between the GPUs: train on one, and report this"
    return ""


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


def main(gpu: str, device: str, simulated: str, run: str) -> None:
    """One process."""
    config = Setting(gpu, bool(simulated)).config
    if run == DVAE:  # of the others it would name another first stage
        start = config.training.dvae.batch
        config = replace(config, dvae_loss=replace(config.dvae_loss, gan_start=start))
    trainer, step = stepping(make_plan(run_of(config, run)), make_task(run_of(config, run)), device)
    for _ in range(STEPS):
        step()
    found = {"bad": int(trainer.first_bad), "apart": differing(trainer)}
    if trainer.accelerator.is_main_process:
        write_json(RESULT, found)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
