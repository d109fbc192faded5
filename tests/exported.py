"""An exported folder whose networks have random weights, of classes and for every ratio."""

from pathlib import Path

from d2it.config import load
from d2it.config.experiments import Measured
from d2it.config.run import run_of
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.latents.encode import encode
from d2it.sampling.export import export
from tests.tiny_world import save_random

OVERRIDES = [
    "scale=smoke",
    "data.emoji.train=28",
    "data.emoji.test=9",
    "data.emoji.reference=9",
    "sampling.steps=2",
    "sampling.grain_steps=2",
    "sampling.block=4",
    "runs.dvae.dvae_classes.ratios=[1.0,random]",
    "runs.grain.grain_classes.ratio=random",
    "runs.content.d2it_xl_classes.ratio=random",
]


def export_random(folder: Path | str) -> None:
    """What it is made from stays in the working directory."""
    config = load(overrides=OVERRIDES)
    prepare(config, "emoji", 1)
    calibrate(config, "emoji")
    for seed, run in enumerate(["dvae_classes", "grain_classes", "d2it_xl_classes"]):
        save_random(config, run, seed)
    encode(run_of(config, "dvae_classes"))
    export(run_of(config, "d2it_xl_classes"), Path(folder), Measured())
