"""Exported folders with random weights, for every ratio: one of classes, one of three grains."""

from pathlib import Path

from d2it.config import load
from d2it.config.experiments import Measured
from d2it.config.run import run_of
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.latents.encode import encode
from d2it.sampling.export import export
from tests.tiny_world import save_random

CLASSES = ("dvae_classes", "grain_classes", "d2it_xl_classes")
THREE = ("dvae_three", "grain_three", "d2it_b_three")
SAMPLING = ["sampling.steps=2", "sampling.grain_steps=2", "sampling.block=4"]


def export_random(folder: Path | str, runs: tuple[str, str, str] = CLASSES) -> None:
    """What it is made from stays in the working directory."""
    dvae, grain, content = runs
    data = run_of(load(overrides=["scale=smoke"]), content).data
    few = [f"data.{data}.{part}" for part in ("train=28", "test=9", "reference=9")]
    ratios = [f"runs.dvae.{dvae}.ratios=[{1.0 if runs == CLASSES else [0.25, 0.5]},random]"]
    ratios += [f"runs.grain.{grain}.ratio=random", f"runs.content.{content}.ratio=random"]
    config = load(overrides=["scale=smoke", *few, *SAMPLING, *ratios])
    prepare(config, data, 1)
    calibrate(config, data)
    for seed, run in enumerate(runs):
        save_random(config, run, seed)
    encode(run_of(config, dvae))
    export(run_of(config, content), Path(folder), Measured())
