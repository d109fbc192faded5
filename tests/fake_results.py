"""Evaluations and galleries with invented numbers, for the tests of tables and figures."""

import random
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from d2it.config import paths
from d2it.config.ratios import numeric, shares
from d2it.config.recipe import KINDS, digest, ratio_key
from d2it.config.run import run_of
from d2it.config.schema import Config
from d2it.cost.macs import gmacs, parameters
from d2it.files import folder_files, write_json
from d2it.models.architecture import architecture


def write_results(config: Config, **spread: float) -> None:
    """An evaluation of every run, below the working directory; `spread` e.g. fid=0.4."""
    for kind in KINDS:
        for run in getattr(config.runs, kind):
            write_evaluation(config, run, **spread)


def write_evaluation(config: Config, run: str, **spread: float) -> None:
    kind = run_of(config, run).kind
    settings = getattr(config.runs, kind)[run]
    luck = random.Random(run)  # the same numbers every time
    found: dict[str, Any] = {}
    if kind == "dvae":
        for ratio in numeric(settings.ratios):
            fine = shares(ratio)[-1]
            metrics = {"rfid": 150 - 60 * fine + luck.random(), "psnr": 25 + 2 * fine}
            found[f"r{ratio_key(ratio)}"] = measured(config, metrics, spread, n=256)
    for label, how in getattr(settings, "evaluations", {}).items():
        metrics = {
            "fid": 250 + 20 * luck.random() + 60 * (1 - how.at),
            "precision": luck.random(),
            "recall": luck.random(),
        }
        if kind in ("content", "dit"):
            metrics |= {f"epsilon_error{grain}": 0.2 for grain in ("", "_0", "_1")}
        if kind == "content":
            metrics["obedience"] = 0.8
        images = int(how.at * run_of(config, run).training.images)
        asked = asdict(how) | {"n": how.n or config.evaluation.n}
        if (ratio := asked.pop("ratio")) is not None or getattr(settings, "ratio", 0) == "random":
            asked["ratio"] = run_of(config, run).main_ratio if ratio is None else ratio
            metrics["gmacs"] = 0.03
        found[label] = measured(config, metrics, spread, images=images, **asked)
    network = architecture(run_of(config, run))
    header = {
        "format": "d2it-evaluation",
        "version": 1,
        "scale": config.name,
        "run": run,
        "kind": kind,
        "recipe_digest": digest(run_of(config, run).recipe),
        "ratio": getattr(settings, "ratio", None),
        "images": run_of(config, run).training.images,
        "parameters": parameters(kind, network),
        "gmacs": gmacs(
            kind, network, run_of(config, run).main_ratio if kind == "content" else None
        ),
        "evaluations": found,
    }
    write_json(paths.evaluation(config, run), header)


def measured(config: Config, metrics: dict[str, float], spread: dict[str, float], **how: Any):
    recipe = {"n": config.evaluation.n, "seeds": config.evaluation.seeds, "rank_deficient": True}
    recipe |= {"reference": "photos", "reference_n": 512}
    recipe |= {"protocol": "clean", "sampler": "ddim", "steps": 25, "grain_steps": 25} | how
    return {
        "metrics": metrics,
        "spread": {metric: spread.get(metric) for metric in metrics},
        "recipe": recipe,
    }


def write_gallery(config: Config, run: str, label: str, n: int, shared: bool) -> None:
    """Pictures of noise with a bright square where the map is fine."""
    folder = paths.gallery(config, run)
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    maps = generator.integers(0, 2, (n, 8, 8))
    if shared:
        maps[:] = maps[0]
    for i, grains in enumerate(maps):
        picture = generator.integers(0, 128, (64, 64, 3)) + 100 * np.kron(grains, np.ones((8, 8)))[
            ..., None
        ].astype(int)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{label}-{i}.png")
    write_json(folder / "maps.json", {label: maps.tolist()})
    header = {"format": "d2it-gallery", "version": 1, "classes": {label: list(range(n))}}
    write_json(folder / "manifest.json", header | {"files": folder_files(folder)})
