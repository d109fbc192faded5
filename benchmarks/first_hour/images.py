"""Encoding, sampling and evaluation with untrained networks, by the commands' own functions."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.first_hour.setting import (
    DRAWN,
    DVAE,
    GUIDED,
    START,
    Found,
    Setting,
    is_slow,
    spell,
)
from d2it.config import paths
from d2it.config.protocols import asked
from d2it.config.run import run_of
from d2it.evaluation.compare import missing
from d2it.evaluation.evaluate import evaluate
from d2it.evaluation.reference import make_reference
from d2it.files import read_json
from d2it.latents.cache import Latents
from d2it.latents.encode import encode
from d2it.machine.device import choose_device
from d2it.sampling.trained_run import RunPipeline
from d2it.sampling.write import Request, write_samples


def encoded(setting: Setting) -> Found:
    """The data set's latents, in the place of those that training was given."""
    config = setting.config
    with aside(paths.latents(config, DVAE)) as folder:
        seconds = timed(lambda: encode(run_of(config, DVAE)))
        batch = Latents.open(folder, "train").fetch(np.arange(setting.images))
    wrong = not all(bool(values.isfinite().all()) for values in batch.values())
    planned = setting.plan.encoding()
    what = f"{2 * setting.images} images and their mirrors"
    return finding(setting, what, seconds, planned, ["latents"] if wrong else [])


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """The place of a folder that is put back at the end."""
    kept = folder.rename(folder.with_name(f"{folder.name}.aside"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)


def sampled(setting: Setting) -> Found:
    """Images with guidance and maps of their own, as PNGs."""
    config, out = setting.config, Path("samples")

    def draw() -> None:
        pipeline = RunPipeline(run_of(config, DRAWN), GUIDED, choose_device())
        request = Request(0, range(setting.images), None, None, "png", pipeline.protocol)
        write_samples(pipeline, request, out)

    seconds = timed(draw)
    pictures = [np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))]
    empty = len(pictures) < setting.images or min(one.std() for one in pictures) == 0
    planned = setting.plan.sampling()
    what = f"{len(pictures)} guided images, {config.sampling.steps} steps"
    return finding(setting, what, seconds, planned, ["samples"] if empty else [])


def evaluated(setting: Setting) -> Found:
    """The reference, then every metric of a DVAE's reconstructions and of samples."""
    config, runs = setting.config, (DVAE, DRAWN)
    data = run_of(config, DRAWN).data

    def measure() -> None:
        make_reference(config, data)
        for run in runs:
            evaluate(run_of(config, run))

    seconds = timed(measure)
    found = {
        f"{name} of {run}": value
        for run in runs
        for entry in read_json(paths.evaluation(config, run), made_by="")["evaluations"].values()
        for name, value in entry["metrics"].items()
    }
    names = asked(config, data)
    wanted = {f"{name} of {DRAWN}" for name in names if name not in missing(names)}
    strange = [name for name, value in found.items() if not math.isfinite(value)]
    what = f"{len(found)} metrics of {setting.images} images"
    planned = setting.plan.evaluation()
    return finding(setting, what, seconds, planned, sorted({*strange, *(wanted - set(found))}))


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def finding(
    setting: Setting, what: str, seconds: float, planned: float, strange: list[str]
) -> Found:
    """`planned` knows no start: networks are loaded, a few images hide nothing of that."""
    wrong = f"{', '.join(strange)}: not a number, or not there; report it" if strange else ""
    slower = is_slow(setting, seconds, planned, START)
    expected = "" if setting.simulated else spell(planned)
    return Found(f"{what} in {spell(seconds)}", expected, wrong, slower)
