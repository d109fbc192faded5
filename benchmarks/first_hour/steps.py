"""Steps of the real Trainer at a run's own sizes: seconds, MFU and memory beside the plan's."""

import time
from typing import Any

from benchmarks.first_hour.setting import LARGER, Found, Setting, is_slow, not_finite, spell
from benchmarks.training import stepping
from d2it.config import Config
from d2it.config.run import run_of
from d2it.machine.device import choose_device
from d2it.runs.plan import Plan, make_plan
from d2it.training.log import memory_bytes, peak_of, utilisation
from d2it.training.room import able_to_compile, check_room, enough_room
from d2it.training.task import Task
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer

WARM = 2  # steps that compile and choose algorithms
STEPS = 2  # timed


def train(setting: Setting, run: str) -> Found:
    config = setting.config
    plan, task = make_plan(run_of(config, run)), make_task(run_of(config, run))
    batch, precision = plan.training.batch, plan.training.precision
    check_room(plan, choose_device())
    with enough_room(plan), able_to_compile(plan):
        trainer, seconds = timed(plan, task)
    used = utilisation(task.flops * batch / seconds, peak_of(setting.gpu, precision))
    row = {
        "run": run,
        "kind": plan.kind,
        "size": size_of(config, run),
        "precision": precision,
        "batch": batch,
        "shards": plan.training.shards,
        "checkpointing": plan.training.checkpointing,
        "seconds": float(f"{seconds:.4g}"),
        "images_per_second": float(f"{batch / seconds:.4g}"),
        **used,
        "memory_gb": round(memory_bytes(trainer.device) / 1e9, 2),
    }
    return judged(setting, row, int(trainer.first_bad))


def timed(plan: Plan, task: Task) -> tuple[Trainer, float]:
    """The trainer, and seconds a step once it is warm."""
    trainer, step = stepping(plan, task, "auto")

    def turn(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            step()
        trainer.first_bad.item()  # waits for the device
        return time.perf_counter() - began

    turn(WARM)
    return trainer, turn(STEPS) / STEPS


def size_of(config: Config, run: str) -> str:
    """What `d2it plan` calls it; of three grains are no runs of the published study."""
    known = run_of(config, run)
    grains = len(known.factors)
    return getattr(known.spec, "size", "") + (f", {grains} grains" if grains > 2 else "")


def judged(setting: Setting, row: dict[str, Any], bad: int) -> Found:
    """`bad`: the first step whose loss or gradient was not finite; -1: none."""
    run, kind, price = row["run"], row["kind"], setting.plan.price(row["run"])
    planned, memory = setting.plan.step(run), price.memory_gb or 0.0
    wrong = ""
    if bad >= 0:
        wrong = not_finite(bad, kind)
    elif row["memory_gb"] > LARGER * memory and not setting.simulated:
        wrong = (
            f"it takes {row['memory_gb']:.1f} GB where {memory:.1f} were planned: plan with that, "
            f"or set training.{kind}.checkpointing=true, and report this"
        )
    measured = f"{spell(row['seconds'])} a step, {share(row['mfu'])}, {row['memory_gb']:.1f} GB"
    expected = f"{spell(planned)} a step, {share(price.mfu)}, {memory:.1f} GB"
    expected = "" if setting.simulated else expected
    return Found(measured, expected, wrong, is_slow(setting, row["seconds"], planned), row=row)


def share(mfu: float | None) -> str:
    return "MFU not known" if mfu is None else f"MFU {mfu:.0%}"
