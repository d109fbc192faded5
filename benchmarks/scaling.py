"""How costs grow: with ratio, batch, resolution, images, runs and processes.

    python -m benchmarks.scaling

The points of a curve take turns; seconds are of the first and the last. *Exponent*: the slope of
log seconds over log x by least squares; 1 is proportional, and of two to five points it is a rough
number. *MACs'*: that of the multiply-accumulates. *Line*: least squares of seconds over x, where a
fixed part and one for each run are what is asked; over the ratio, in units of the step at ratio 0,
beside that of the MACs.

The networks are toys, of the sizes that the JSON names. They spend much of a step outside of their
multiplications, so their seconds grow slower than their MACs; those of large ones follow the MACs.
Processes have a thread each and share the images of a step; they exchange gradients by gloo.
Several nodes have not been measured. No window of the maps holds both grains; calibration is its
entropies alone, on all cores.
"""

import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.calibration import REGION, photographs
from benchmarks.common import ROOT, arguments, interleaved, timed, use_all_cores, write
from benchmarks.training import CHANNELS, CLASSES, RATIO, WINDOW, latents_in, ours
from d2it.clock import Order
from d2it.config import load
from d2it.config.recipe import KINDS
from d2it.config.schema import Training
from d2it.cost.macs import gmacs
from d2it.evaluation.metrics import Gaussian
from d2it.evaluation.neighbours import precision_recall
from d2it.grains.entropy import entropy_map
from d2it.jobs.local import free_port
from d2it.latents.cache import Latents
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT

SIZE = {"width": 128, "heads": 4, "classes": CLASSES, "channels": CHANNELS, "learn_sigma": False}
DEPTH, LAYERS = 6, (5, 1)
SIDE, BATCH = 32, 4  # of the latents, and images per step, where something else varies
RATIOS, BATCHES, SIDES = (0, 0.25, 0.5, 0.75, 1), (1, 2, 4, 8), (16, 32, 64)
IMAGES = (8, 32, 128)  # at 256 px
SETS = (1000, 2000, 4000)  # of features, of the width SETS_WIDTH, and so of full rank
SETS_WIDTH = 512
EPOCHS = (10**5, 10**6, 10**7)  # images of an epoch
RUNS = (0, 100, 300)  # added to the paper's
PROCESSES, SHARED, TIMED = (1, 2), 8, 20  # images of a step, steps of a round
Point = tuple[str, str, float, Callable[[], Any], float | None]  # cost, over, x, call, GMACs


def shape(kind: str, side: int) -> dict[str, Any]:
    """Constructor arguments."""
    size = {"side": side} | SIZE
    if kind == "dit":
        return size | {"patch": 2, "depth": DEPTH}
    return size | {"grains": 2, "layers": LAYERS, "window": WINDOW, "skip_windows": True}


def network(kind: str, side: int) -> torch.nn.Module:
    return (DiT if kind == "dit" else ContentTransformer)(**shape(kind, side))


@functools.cache
def latents_of(folder: Path, side: int) -> Latents:
    place = folder / f"{side}"
    place.mkdir()
    return latents_in(place, side, 64)


def training_step(
    kind: str,
    folder: Path,
    side: int = SIDE,
    batch: int = BATCH,
    ratio: float = RATIO,
    shards: int = 1,
) -> tuple[Callable[[], None], float]:
    """A step, and the GMACs of its forward pass."""
    training = Training(images=0, batch=batch, learning_rate=1e-4, shards=shards, ema_half_life=1e6)
    step = ours(kind, network(kind, side), latents_of(folder, side), training, "cpu", ratio)
    own = gmacs(kind, shape(kind, side), ratio if kind == "content" else None)
    return step, batch * own["sparse" if kind == "content" else "dense"]


def training_points(folder: Path) -> Iterator[Point]:
    names = {"content": "training step, D²iT", "dit": "training step, DiT"}
    for ratio in RATIOS:
        yield names["content"], "ratio", ratio, *training_step("content", folder, ratio=ratio)
    for batch in BATCHES:
        yield (
            names["content"],
            "images per step",
            batch,
            *training_step("content", folder, batch=batch),
        )
    for kind, name in names.items():
        for side in SIDES:
            yield name, "latent cells", side**2, *training_step(kind, folder, side=side, batch=1)


def image_points() -> Iterator[Point]:
    many = photographs(max(IMAGES))
    for n in IMAGES:
        call = functools.partial(entropy_map, many[:n], REGION)
        yield "calibration", "images at 256 px", n, call, None
    for n in EPOCHS:
        call = functools.partial(lambda n: Order(0, n).indices(0, 1), n)
        yield "order of an epoch", "images", n, call, None


def evaluation_points() -> Iterator[Point]:
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((max(SETS), SETS_WIDTH), np.float32) for _ in range(2))
    for n in SETS:
        yield "mean and covariance", "images", n, functools.partial(Gaussian.of, x[:n]), None
    for n in SETS:
        call = functools.partial(precision_recall, x[:n], y[:n])
        yield "precision and recall", "images", n, call, None


def dry_run_points(folder: Path) -> Iterator[Point]:
    """Dry runs of the published scale in a new clone, with more D²iT-B runs than it has."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    scales = folder / "params" / "scale"
    paper = yaml.safe_load((scales / "paper.yaml").read_text(encoding="utf-8"))
    content = yaml.safe_load(
        (folder / "params" / "experiment" / "d2it_b.yaml").read_text(encoding="utf-8")
    )
    runs = load(overrides=["scale=paper"]).runs
    own = sum(len(getattr(runs, kind)) for kind in KINDS)
    for more in RUNS:
        extra = {f"more_{i:04d}": content["content"]["d2it_b"] for i in range(more)}
        changed = paper["runs"] | {"content": paper["runs"]["content"] | extra}
        text = yaml.safe_dump(paper | {"runs": changed}, sort_keys=False, allow_unicode=True)
        (scales / f"more{more}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
        command = ["snakemake", "-n", "all", "all_evaluations", "--quiet", "--config"]
        call = functools.partial(
            subprocess.run,
            [*command, f"scale=more{more}"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        yield "dry run", "runs", own + more, call, None


def seconds_of_a_step(rank: int, processes: int, port: int, folder: str) -> None:
    """In one of several processes; the first leaves what it measured in `folder`."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{processes}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "D2IT_THREADS": "1"}
    place = Path(folder, f"{rank}")
    place.mkdir()
    step, _ = training_step("content", place, batch=SHARED, shards=max(PROCESSES))
    for _ in range(3):  # to warm up
        step()
    began = time.perf_counter()
    for _ in range(TIMED):
        step()
    if rank == 0:
        Path(folder, "seconds").write_text(
            repr((time.perf_counter() - began) / TIMED), encoding="utf-8"
        )


def process_rows(repeats: int) -> Iterator[dict[str, Any]]:
    """Processes are started anew for each round, and time themselves."""
    rounds: dict[int, list[float]] = {count: [] for count in PROCESSES}
    for _ in range(repeats):
        for count, spent in rounds.items():
            with tempfile.TemporaryDirectory() as folder:
                given = (count, free_port(), folder)
                torch.multiprocessing.spawn(seconds_of_a_step, given, count)
                spent.append(float(Path(folder, "seconds").read_text(encoding="utf-8")))
    for count, spent in rounds.items():
        what = {"cost": f"training step, D²iT, {SHARED} images", "over": "processes", "x": count}
        yield what | timed(spent)


def measured(points: list[Point], repeats: int) -> list[dict[str, Any]]:
    """Rows of points that take turns."""
    rounds = interleaved({str(i): point[3] for i, point in enumerate(points)}, repeats, least=0.2)
    rows = []
    for (cost, over, x, _, macs), spent in zip(points, rounds.values(), strict=True):
        row: dict[str, Any] = {"cost": cost, "over": over, "x": x, **timed(spent)}
        rows.append(row if macs is None else row | {"gmacs": round(macs, 4)})
    return rows


def main() -> None:
    given = arguments(__doc__.splitlines()[0], repeats=3, gpu=False)
    use_all_cores()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for points in (
            training_points(Path(folder)),
            image_points(),
            evaluation_points(),
            dry_run_points(Path(folder, "clone")),
        ):
            rows += measured(list(points), given.repeats)
            print(f"{len(rows)} points", flush=True)
    rows += process_rows(given.repeats)
    config = SIZE | {"depth": DEPTH, "layers": LAYERS, "side": SIDE, "batch": BATCH}
    write("scaling", "cpu", config | {"repeats": given.repeats}, rows)


if __name__ == "__main__":
    main()
