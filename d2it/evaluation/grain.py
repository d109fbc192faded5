"""Evaluation of a grain run: do its maps look like those of images?"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2it.config.recipe import precision_recipe
from d2it.evaluation.compare import over_seeds
from d2it.evaluation.measure import PICTURES, Evaluated, Evaluator
from d2it.grains.maps import neighbour_agreement, reached_shares
from d2it.machine.device import arithmetic
from d2it.sampling.pipeline import Drawn, Part
from d2it.sampling.trained_run import Maps


def grain_maps(evaluator: Evaluator) -> dict[str, Evaluated]:
    """Shares of the finer grains and agreement of neighbours: of drawn maps, and of the data's."""
    run = evaluator.run
    maps = Maps(run.dvae, run.main_ratio, "predicted", run, evaluator.device, run.ratio)
    assert maps.grain is not None  # the configuration refuses grain runs of constant maps
    recipe = recipe_of(evaluator, maps.grain)
    if maps.learned == "random":
        recipe["ratio"] = maps.ratio
    classes = maps.grain.architecture["classes"]

    def compute() -> Evaluated:
        true = maps.latents.maps(maps.ratio, np.arange(len(maps.latents)))
        data = {f"{name}_data": value for name, value in measure(true, maps).items()}
        drawn = [draw(maps, classes, seed, recipe["n"]) for seed in recipe["seeds"]]
        metrics, spread = over_seeds([measure(each, maps) for each in drawn])
        shown = drawn[0][:PICTURES].numpy()
        no_images = np.empty((0, 1, 1, 3), np.uint8)
        labels = np.arange(len(shown)) % max(classes, 1)
        nothing = dict.fromkeys(data)
        return Evaluated(metrics | data, spread | nothing, recipe, Drawn(no_images, shown, labels))

    return {"main": evaluator.remember("main", recipe, compute)}


def recipe_of(evaluator: Evaluator, grain: Part) -> dict[str, Any]:
    config = evaluator.config
    return precision_recipe(config.sampling) | {
        "n": config.evaluation.n,
        "seeds": config.evaluation.seeds,
        "sampler": "ancestral",
        "steps": config.sampling.grain_steps,
        "block": config.sampling.block,
        "images": grain.images,
        "weights": "ema",
        "weights_sha256": grain.sha256,
    }


def draw(maps: Maps, classes: int, seed: int, n: int) -> Tensor:
    """The maps 0 .. n-1 of `seed`, (n, h, w)."""
    sampling = maps.config.sampling
    block = sampling.block
    starts = np.arange(0, n, block)[:, None]
    with torch.inference_mode(), arithmetic(maps.device, sampling.precision):
        blocks = [
            maps.draw(seed, indices, indices % classes if classes else None)
            for indices in starts + np.arange(block)
        ]
    return torch.cat(blocks)[:n].cpu()


def measure(map: Tensor, maps: Maps) -> dict[str, float]:
    shares = reached_shares(map, maps.latents.grains)
    return {name: share.item() for name, share in shares.items()} | {
        "neighbour_agreement": neighbour_agreement(map),
    }
