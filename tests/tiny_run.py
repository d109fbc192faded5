"""A training run of milliseconds with all a real one has: two learners, drawn noise, milestones.

    python tests/tiny_run.py FOLDER images=640 [fail_at=320] [pause=0.01] [half_life=100] ...

also under torchrun. It is what the fault tests start, kill and start again.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.tracking import GeneralTracker, register_tracker_class
from torch import nn

from d2it.config.schema import Training
from d2it.errors import UserError
from d2it.files import write_json
from d2it.runs.plan import Plan
from d2it.training.task import Learner

SEED = 3
TRAINING = Training(
    images=640,
    batch=16,
    learning_rate=1e-2,
    shards=2,
    betas=(0.5, 0.9),
    weight_decay=0.01,
    clip=1.0,
    warmup=64,
    ema_half_life=100.0,
    log_images=48,
    save_images=80,
)


class TinyTask:
    """A network that copies its input through noise, and a critic that starts later."""

    kind = "dit"
    size = 100

    def __init__(self, training: Training, fail_at: int = -1, pause: float = 0.0):
        torch.manual_seed(SEED)
        self.fail_at, self.pause = fail_at, pause
        model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 8))
        critic = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 1))
        rate = training.learning_rate
        self.learners = [
            Learner("model", model, training, rate),
            Learner("critic", critic, training, rate / 2),
        ]
        self.items = torch.randn(self.size, 8, generator=torch.Generator().manual_seed(SEED))
        self.architecture, self.recipe = {"width": 32}, recipe_of(training)
        self.inputs, self.extra, self.notes = {"items": "none"}, {}, []
        self.flops = 2 * 3 * (8 * 32 + 32 * 8)  # of its two linear layers

    def fetch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        time.sleep(self.pause)
        return {"x": self.items[torch.from_numpy(indices)]}

    def draw(self, generator: torch.Generator, n: int, images_seen: int) -> dict[str, torch.Tensor]:
        return {"noise": torch.randn(n, 8, generator=generator)}

    def loss(self, learner, networks, batch, images_seen):
        noisy = batch["x"] + 0.1 * batch["noise"]
        if learner == "critic":
            if images_seen < 160:
                return None, {}
            with torch.no_grad():
                fake = networks["model"](noisy)
            both = networks["critic"](torch.cat([batch["x"], fake]))
            real, fake = both.chunk(2)
            loss = torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
            return loss, {"gap": (real - fake).mean()}
        output = networks["model"](noisy)
        error = (output - batch["x"]).square().mean()
        loss = error
        if images_seen >= 160:
            loss = loss - 0.1 * networks["critic"](output).mean()
        if images_seen == self.fail_at:
            loss = loss * torch.where(batch["x"].sum() > batch["noise"].sum(), torch.nan, 1.0)
        return loss, {"error": error}


def tiny_plan(
    folder: Path, images: int = 640, milestones: tuple[int, ...] = (208, 432), **settings
) -> Plan:
    training = replace(TRAINING, images=images, **settings)
    marks = tuple(m for m in milestones if m < images)
    recipe = recipe_of(training)
    return Plan("tiny", "dit", folder, training, SEED, marks, recipe, {}, {"name": "tiny"})


def recipe_of(training: Training) -> dict[str, Any]:
    return {"settings": {"learning_rate": training.learning_rate}}


class Notebook(GeneralTracker):
    """A tracker that writes down what it is sent; once the file `broken` is there, it fails."""

    name = "notebook"
    requires_logging_directory = True

    def __init__(self, project: str, folder: str):
        super().__init__()
        self.folder = Path(folder)

    tracker = property(lambda self: self.folder)

    def start(self) -> None:
        self.log({"started by": os.getpid()}, None)

    def store_init_configuration(self, values: dict) -> None:
        raise NotImplementedError

    def log(self, values: dict, step: int | None, **_: object) -> None:
        if (self.folder.parent / "broken").exists():
            raise ConnectionError("nobody\nanswers")
        with open(self.folder / "rows.jsonl", "a") as file:
            file.write(json.dumps([step, values]) + "\n")

    def finish(self) -> None:
        self.log({"finished": 1}, None)


def beat(path: str) -> None:
    """The heartbeat of a live process on another host."""
    for count in range(1000):
        write_json(path, {"host": "elsewhere", "pid": 1, "beat": count})
        time.sleep(0.2)


def meet(rank: int, port: int, minutes: str, told: str) -> None:
    """Two processes, of which the second never comes to the end of a step."""
    from torch import distributed

    from d2it.runs.signals import Stop
    from d2it.training.loop import answered

    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "D2IT_STALL_MINUTES": minutes}
    store = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    with Stop(2) as stop:
        if rank:
            time.sleep(600)
        stop.asked()
        try:
            with answered("tiny"):
                stop.meet()
        except UserError as error:
            Path(told).write_text(str(error))
            os._exit(0)


def main(folder: str, *settings: str) -> int:
    from d2it.runs.signals import Stopped
    from d2it.training.loop import train

    given = dict(setting.split("=") for setting in settings)
    task_settings = {
        "fail_at": int(given.pop("fail_at", -1)),
        "pause": float(given.pop("pause", 0)),
    }
    wait = given.pop("wait", "no") == "yes"
    if "tracker" in given:
        register_tracker_class(Notebook)
        os.environ["D2IT_TRACKER"] = given.pop("tracker")
    numbers = {key: int(value) if value.isdecimal() else value for key, value in given.items()}
    plan = tiny_plan(Path(folder), **numbers)
    try:
        train(plan, lambda: TinyTask(plan.training, **task_settings), "cpu", wait)
    except UserError as error:
        print(f"d2it: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        return 128 + stopped.signum
    return 0


def child(folder: str, settings: tuple[str, ...], rank: int, world: int, port: int) -> None:
    """One process of a run."""
    with open(f"{folder}.err", "a") as file:
        os.dup2(file.fileno(), 2)
    if world > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "GLOO_SOCKET_IFNAME": "lo",
        }
    raise SystemExit(main(folder, *settings))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
