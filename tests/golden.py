"""The first losses of every training stage, from a fixed tiny world: a change of any formula shows.

    python tests/golden.py --write    # after a change that is meant to change numbers

writes tests/golden/losses.json. Both losses of the DVAE are kept; its discriminator plays from step
10 on. The second stage trains on the latents that tests/test_transformers.py draws, not on the
DVAE's: one stage's change does not show in the others.
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from d2it.config import Config, load, paths
from d2it.config.recipe import digest
from d2it.config.run import run_of
from d2it.files import write_json
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.runs.plan import make_plan
from d2it.training.loop import train
from d2it.training.tasks import make_task
from tests.test_transformers import TWO, write_latents
from tests.tiny_world import FEW_PHOTOS, WEIGHTS

FILE = Path(__file__).parent / "golden" / "losses.json"
STEPS, BATCH = 20, 4
RUNS = ("dvae", "grain_classes", "d2it_xl_classes", "dit_xl_classes")
KINDS = ("dvae", "grain", "content", "dit")
OVERRIDES = [
    *FEW_PHOTOS,
    *(f"training.{kind}.images={STEPS * BATCH}" for kind in KINDS),
    *(f"training.{kind}.{key}={BATCH}" for kind in KINDS for key in ("batch", "log_images")),
    f"dvae_loss.gan_start={STEPS * BATCH // 2}",
    "training.dvae.learning_rate=1.0e-5",  # GANs are chaotic: at 1e-3 last bits grow to percents
    "dvae_loss.kl_weight=100",  # else the KL would hide behind the last digits of the other terms
    "diffusion.learn_sigma=true",
]

Losses = dict[str, list[float]]


def golden_world() -> Config:
    """All that the stages need, in the working directory."""
    torch.set_num_threads(1)
    config = load(overrides=OVERRIDES)
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    write_latents(paths.latents(config, "dvae"), digest(run_of(config, "dvae").latents_recipe), TWO)
    return config


def first_losses(config: Config, run: str, steps: int = STEPS) -> Losses:
    """Every learner's loss in each of the first steps of `run`, by the real training loop."""
    plan = make_plan(run_of(config, run))
    training = dataclasses.replace(plan.training, images=steps * BATCH)
    plan = dataclasses.replace(plan, training=training, milestones=())
    task = make_task(run_of(config, run))
    generator = torch.Generator().manual_seed(0)
    for learner in task.learners:
        for parameter in learner.module.parameters():
            if parameter.requires_grad and not parameter.any():
                # gates, heads and B_r begin at zero, where what lies behind them does not show
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        train(dataclasses.replace(plan, folder=Path(folder, "run")), lambda: task, "cpu")
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    losses: Losses = {}
    for line in map(json.loads, lines):
        for name, value in line.items():
            if name.startswith("loss/"):
                losses.setdefault(name.removeprefix("loss/"), []).append(value)
    return losses


def main() -> None:
    os.environ["D2IT_WEIGHTS"] = str(WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        config = golden_world()
        found = {run_of(config, run).kind: first_losses(config, run) for run in RUNS}
    rounded = {
        kind: {
            learner: [float(f"{value:.6g}") for value in losses] for learner, losses in one.items()
        }
        for kind, one in found.items()
    }
    write_json(FILE, rounded)
    print(f"{FILE} is written.")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    main()
