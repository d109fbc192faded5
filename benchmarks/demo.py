"""What the demo is made of, beside the same of another checkout, in CPU-seconds.

    python -m benchmarks.demo --against PATH

The other checkout is a clone of an older commit; this environment runs both. A process of each
waits for its turn at each part, so that what else the machine does is shared. Seconds are
user and system together. Networks have the demo's sizes and random weights; a shard is half a
batch. DVAE steps go through the loop's own trainer, on the photographs that either prepares itself.
`make bench` leaves this out: it needs the other checkout.
"""

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LEAST = 0.3  # seconds that a turn takes
GAN = 8000  # images seen, from where on the demo's discriminator takes part
VERBS = {
    "train": "d2it.training.loop",
    "evaluate": "d2it.evaluation.evaluate",
    "table": "d2it.report.tables",
    "figure": "d2it.report.figures",
}


def parts() -> dict[str, Callable[[], Any]]:
    """By name, what this process's checkout does in one turn."""
    import numpy as np
    import torch

    from d2it.config import load
    from d2it.machine.device import choose_device
    from d2it.models.inception import BLOCK, Inception
    from d2it.models.lpips import Lpips

    choose_device()
    torch.manual_seed(0)
    config = load(None, [])
    pictures = np.random.default_rng(0).integers(0, 256, (BLOCK, 64, 64, 3), dtype=np.uint8)
    x, y = torch.from_numpy(pictures[:8]).permute(0, 3, 1, 2).float().div(127.5).sub(1).split(4)
    y.requires_grad_()
    lpips, inception = Lpips.load("alex"), Inception()
    found: dict[str, Callable[[], Any]] = {
        "DVAE, step": dvae_step(config, 0),
        "DVAE, step with the discriminator": dvae_step(config, GAN),
        "LPIPS of a shard, with gradients": lambda: torch.autograd.grad(lpips(y, x).mean(), y),
        "Inception, block of 16": lambda: inception(pictures),
    }
    for run in ("dit_b", "d2it_b", "d2it_l", "d2it_xl_classes", "grain"):
        found[f"{run}, forward and backward of a shard"] = training_pass(config, run)
    found["d2it_b, sampling of a block of 16"] = sampling(config)
    for verb, module in VERBS.items():
        command = [sys.executable, "-c", f"import {module}"]
        found[f"{verb}, start"] = lambda command=command: subprocess.run(command, check=True)
    return found


def dvae_step(config: Any, seen: int) -> Callable[[], None]:
    from d2it.clock import Order
    from d2it.config.run import run_of
    from d2it.runs.plan import make_plan
    from d2it.training.batches import Batches
    from d2it.training.loop import make_accelerator
    from d2it.training.tasks import make_task
    from d2it.training.trainer import Trainer

    run = run_of(config, "dvae")
    plan, task = make_plan(run), make_task(run)
    trainer, settings = Trainer(plan, task, make_accelerator(plan, "cpu")), plan.training
    order = Order(plan.seed, task.size)
    batches = Batches(
        task, order, plan.seed, settings.batch, settings.shards, trainer.mine, pin=False
    )
    batches.start(seen, seen + 10**9)
    return lambda: trainer.step(batches.take(), seen)


def network_of(config: Any, run: str) -> tuple[Any, dict[str, Any]]:
    from d2it.config.run import run_of
    from d2it.models.architecture import architecture
    from d2it.models.store import empty_network

    shape = architecture(run_of(config, run))
    return empty_network(run_of(config, run).kind, shape), shape


def training_pass(config: Any, run: str) -> Callable[[], None]:
    import torch

    network, shape = network_of(config, run)
    z = torch.randn(4, shape.get("channels", shape.get("grains")), *[shape["side"]] * 2)
    t, y = torch.randint(1000, (4,)), torch.zeros(4, dtype=torch.long)
    rest = [y if shape["classes"] else None]
    if "layers" in shape:  # a content transformer is given grain maps
        rest.append(torch.randint(2, (4, *[shape["side"] // 2] * 2)))

    def turn() -> None:
        network.zero_grad()
        network(z, t, *rest).square().mean().backward()

    return turn


def sampling(config: Any) -> Callable[[], Any]:
    from d2it.sampling.pipeline import GrainMaps, Part, Pipeline, schedule_of

    network, grain, dvae = (
        Part(*network_of(config, run), 0, "") for run in ("d2it_b", "grain", "dvae")
    )
    for part in (network, grain, dvae):
        part.network.eval().requires_grad_(False)
    side, steps = grain.architecture["side"], config.sampling.grain_steps
    ratio, schedule = config.ratio, schedule_of(config.diffusion)
    maps = GrainMaps(side, ratio, ratio, grain, steps, schedule, "cpu")
    settings = (config.sampling, config.diffusion)
    pipeline = Pipeline("content", network, dvae, maps, 1.0, *settings)
    return lambda: pipeline.sample(config.sampling.block)


def spent(call: Callable[[], Any], times: int = 1) -> float:
    """CPU-seconds of a call, those of the processes that it waits for included."""

    def clock() -> float:
        each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(used.ru_utime + used.ru_stime for used in each)

    began = clock()
    for _ in range(times):
        call()
    return (clock() - began) / times


def serve() -> None:
    """Answer each line, the name of a part, with its CPU-seconds; the first time is for warming."""
    found = parts()
    print(list(found), flush=True)
    times: dict[str, int] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in times:
            found[name]()
            times[name] = max(1, round(LEAST / spent(found[name])))
        print(spent(found[name], times[name]), flush=True)


class Checkout:
    """A process that runs the parts of one checkout, in its turns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        here = os.environ | {"PYTHONPATH": str(folder), "D2IT_THREADS": "1"}
        for verb in ("prepare", "calibrate"):
            command = [sys.executable, "-m", "d2it", verb, "photos"]
            subprocess.run(command, cwd=folder, env=here, check=True)
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            cwd=folder,
            env=here,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def answer(self, name: str = "") -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        if name:
            print(name, file=self.process.stdin, flush=True)
        return self.process.stdout.readline()

    def commit(self) -> str:
        command = ["git", "-C", str(self.folder), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    import ast
    import statistics

    from benchmarks.common import checkout, kept, significant, write

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, metavar="PATH", help="a clone")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds (default: 9)")
    checkout()
    given = parser.parse_args()
    both = {"this": Checkout(ROOT), "other": Checkout(given.against.resolve())}
    names = [ast.literal_eval(one.answer()) for one in both.values()][0]
    rows = []
    for name in names:
        for one in both.values():  # warm
            one.answer(name)
        rounds: dict[str, list[float]] = {which: [] for which in both}
        for _ in range(given.repeats):
            for which, one in both.items():
                rounds[which].append(float(one.answer(name)))
        seconds = {which: statistics.median(turns) for which, turns in rounds.items()}
        ratio = statistics.median(
            this / other for this, other in zip(rounds["this"], rounds["other"], strict=True)
        )
        rows.append({"what": name, "CPU-seconds": significant(seconds["this"])})
        rows[-1] |= {"of the other": significant(seconds["other"]), "ratio": round(ratio, 3)}
        rows[-1]["rounds"] = {which: kept(turns) for which, turns in rounds.items()}
        print(name, rows[-1]["CPU-seconds"], rows[-1]["of the other"], rows[-1]["ratio"])
    write("demo", "cpu", {"repeats": given.repeats, "against": both["other"].commit()}, rows)


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
