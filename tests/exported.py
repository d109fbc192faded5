"""An exported folder whose networks have random weights, of classes and for every ratio."""

from pathlib import Path

from d2it.config import load
from d2it.config.experiments import Measured
from d2it.config.run import run_of
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.latents.encode import encode
from d2it.sampling.export import export
from tests.tiny_world import OVERRIDES, save_random

RUN, GRAIN = "d2it_xl_classes", "grain_classes"
ELASTIC = [f"runs.content.{RUN}.ratio=random", f"runs.grain.{GRAIN}.ratio=random"]


def export_random(folder: Path | str) -> None:
    """What it is made from stays in the working directory."""
    config = load(overrides=[*OVERRIDES, *ELASTIC])
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    for seed, run in enumerate(["dvae", GRAIN, RUN]):
        save_random(config, run, seed)
    encode(run_of(config, "dvae"))
    export(run_of(config, RUN), Path(folder), Measured())
