"""Evaluations of content and DiT runs: sample, extract features, compare. Resumes by shards."""

import math
import time
from itertools import chain
from typing import Any

import numpy as np
import torch

from d2it.config.protocols import METRICS
from d2it.config.ratios import is_constant
from d2it.config.recipe import precision_recipe, ratio_key
from d2it.config.types import Ratio
from d2it.evaluation.compare import compare, missing, over_seeds, rank_deficient
from d2it.evaluation.measure import PICTURES, Evaluated, Evaluator
from d2it.evaluation.metrics import Gaussian, frechet_distance
from d2it.evaluation.neighbours import nearest_distance
from d2it.evaluation.noise_error import epsilon_error
from d2it.files import require_space
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import grain_map
from d2it.latents.cache import Latents
from d2it.models.inception import BLOCK, DIMENSIONS, SPATIAL, Head
from d2it.sampling.pipeline import Drawn, schedule_of
from d2it.sampling.trained_run import RunPipeline
from d2it.shares import Share
from d2it.units import Advance, Arrays, Unit, Units, divide, joined

SHARD = 1024  # images whose features are saved together: what a kill costs at most
ERRORS = 1024  # held-out images whose noise is predicted, at most
OF_ONE_MAP = 8  # images at most


def samples(evaluator: Evaluator, shard: int = SHARD) -> dict[str, Evaluated]:
    """Every evaluation of the run, by label."""
    labels = evaluator.run.evaluations
    return {label: Sampled(evaluator, label, shard).evaluated() for label in labels}


def share_of_samples(evaluator: Evaluator, share: Share) -> None:
    """Compute one share of the units of all evaluations of the run."""
    before = 0
    for label in evaluator.run.evaluations:
        one = Sampled(evaluator, label)
        if not evaluator.is_known(label, one.recipe):
            one.compute(share, before)
            before += len(one.units.all)


class Sampled:
    """One evaluation of the run, in units seed by seed."""

    def __init__(self, evaluator: Evaluator, label: str, shard: int = SHARD) -> None:
        measured, settings = evaluator.run.evaluations[label], evaluator.config.evaluation
        self.evaluator, self.label, self.seeds = evaluator, label, settings.seeds
        self.pipeline = RunPipeline(evaluator.run, measured, evaluator.device)
        self.n = measured.n or settings.n
        self.recipe = recipe_of(evaluator, self.pipeline, self.n)
        step = step_of(evaluator)
        seeds = [divide(str(seed), range(self.n), shard, step) for seed in settings.seeds]
        folder = evaluator.folder(label, self.recipe)
        self.units = Units(folder, self.recipe, list(chain.from_iterable(seeds)))

    def compute(self, share: Share | None = None, before: int = 0) -> None:
        def one(unit: Unit, advance: Advance) -> Arrays:
            return one_shard(self.evaluator, self.pipeline, unit, advance)

        what = f"{self.evaluator.run.name} {self.label}"
        self.units.compute(one, self.evaluator.device, what, share, before)

    def evaluated(self) -> Evaluated:
        evaluated = self.evaluator.remember(self.label, self.recipe, self._evaluate)
        self.units.remove()
        return evaluated

    def _evaluate(self) -> Evaluated:
        units = self.units
        require_space(units.folder, 4 * (DIMENSIONS + SPATIAL) * self.n * len(self.seeds))
        self.compute()
        began, found, pictures = time.monotonic(), [], []
        for seed in self.seeds:
            drawn = joined([units.load(unit) for unit in units.all if unit.series == str(seed)])
            found.append(self._metrics(drawn))
            pictures.append(Drawn(drawn["images"], drawn["maps"], drawn["labels"]))
        metrics, spread = over_seeds(found)
        held_out = noise_errors(self.evaluator, self.pipeline, self.recipe["epsilon_images"])
        spread |= dict.fromkeys(held_out)
        devices = units.devices(f"Evaluation {self.label} of {self.evaluator.run.name}")
        drawn_in = units.seconds()
        seconds = drawn_in and drawn_in + time.monotonic() - began
        return Evaluated(metrics | held_out, spread, self.recipe, pictures[0], devices, seconds)

    def _metrics(self, drawn: Arrays) -> dict[str, float]:
        """Of one seed."""
        evaluator, reference = self.evaluator, self.evaluator.reference
        known = [name for name in evaluator.metrics if name in METRICS]
        names = [name for name in known if name not in self.recipe["missing"]]
        neighbours = evaluator.config.evaluation.neighbours
        metrics = compare(names, drawn, reference, neighbours, evaluator.device)
        if "nearest" in evaluator.metrics:  # 1: as far from the training images as unseen ones are
            distance = nearest_distance(drawn["features"], reference.features, evaluator.device)
            metrics["nearest"] = distance / evaluator.held_out_distance
        if evaluator.second:
            ours = Gaussian.of(drawn["second"], evaluator.device)
            fid = frechet_distance(ours, evaluator.second_reference)
            metrics[f"fid_{evaluator.second}"] = fid
        own = [name for name in ("obedience", "fine_share", "gmacs") if name in drawn]
        return metrics | {name: float(drawn[name].mean()) for name in own}


def step_of(evaluator: Evaluator) -> int:
    """Images of whole blocks of sampling and of features."""
    return math.lcm(evaluator.config.sampling.block, BLOCK)


def recipe_of(evaluator: Evaluator, pipeline: RunPipeline, n: int) -> dict[str, Any]:
    """All that decides the numbers, digests of weights included."""
    sampling, settings = evaluator.config.sampling, evaluator.config.evaluation
    measured, reference, grain = pipeline.measured, evaluator.reference, pipeline.maps.drawn_by
    recipe = evaluator.protocol | {
        "n": n,
        "seeds": settings.seeds,
        "metrics": evaluator.metrics,
        "missing": missing(evaluator.metrics),
        "inception_head_sha256": Head.sha256() if "inception_score" in evaluator.metrics else None,
        "neighbours": settings.neighbours,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "eta": sampling.eta,
        "block": sampling.block,
        "guidance": measured.guidance,
        "guided_channels": sampling.guided_channels,
        "maps": pipeline.maps.source if evaluator.run.kind == "content" else None,
        "grain_steps": sampling.grain_steps if grain else None,
        "at": measured.at,
        "images": pipeline.network.images,
        "weights": measured.weights,
        "weights_sha256": pipeline.network.sha256,
        "dvae_sha256": pipeline.dvae.sha256,
        "grain_sha256": grain.sha256 if grain else None,
        "latent_scale": pipeline.scale,
        "epsilon_images": min(n, ERRORS, pipeline.maps.latents.header["splits"]["test"]["count"]),
        "reference": evaluator.run.data,
        "reference_n": len(reference.features),
        "reference_digest": reference.digest,
        "rank_deficient": rank_deficient(n, len(reference.features)),
    }
    if pipeline.maps.learned == "random":
        recipe["ratio"] = pipeline.maps.ratio
    recipe |= precision_recipe(sampling)
    regions = regions_of(evaluator, pipeline)
    return recipe if regions is None else recipe | {"epsilon_regions": regions}


def one_shard(evaluator: Evaluator, pipeline: RunPipeline, unit: Unit, advance: Advance) -> Arrays:
    """Features, and what else is kept, of the images of a unit."""
    blocks, step = [], step_of(evaluator)
    for start in range(unit.span.start, unit.span.stop, step):
        indices = np.arange(start, min(start + step, unit.span.stop))
        drawn = pipeline.draw(int(unit.series), indices)
        block = evaluator.features(drawn.images)
        if evaluator.run.kind == "content" and pipeline.maps.cuts is None:
            block["obedience"] = obedience(evaluator, pipeline, drawn)
        if pipeline.maps.learned == "random":  # what the work of a sample follows
            block["fine_share"] = (drawn.maps == pipeline.grains - 1).mean((1, 2))
            block["gmacs"] = pipeline.gmacs(drawn.maps)
        shown = drawn[: max(0, PICTURES - start)]
        block |= {"images": shown.images, "maps": shown.maps, "labels": shown.labels}
        blocks.append(block)
        advance(len(indices))
    return joined(blocks)


def obedience(evaluator: Evaluator, pipeline: RunPipeline, drawn: Drawn) -> np.ndarray:
    """Share of each image's regions whose own thresholded entropy is the grain that was asked for.

    (n,) float64: what Figure 3 shows, as a number.
    """
    config, latents = evaluator.config, pipeline.maps.latents
    images = torch.from_numpy(drawn.images).to(evaluator.device)
    entropy = entropy_map(images, latents.factors[0], *config.kernel)
    found = grain_map(entropy, latents.cuts(pipeline.maps.ratio))
    agree = found.cpu() == torch.from_numpy(drawn.maps)
    return agree.double().mean((1, 2)).numpy()


def regions_of(evaluator: Evaluator, pipeline: RunPipeline) -> Ratio | None:
    """The ratio whose regions a DiT's errors are told apart by, where its latents know it."""
    known, ratio = pipeline.maps.latents.header["ratios"], evaluator.config.ratio
    return ratio if evaluator.run.kind == "dit" and ratio_key(ratio) in known else None


def noise_errors(evaluator: Evaluator, pipeline: RunPipeline, n: int) -> dict[str, float]:
    """Errors of the predicted noise on held-out images; 1 is the error of predicting none.

    A DiT's are also told apart by the regions that are coarse and fine at the main ratio, so that
    they can be compared with a D²iT's.
    """
    config, ratio, known = evaluator.config, pipeline.maps.ratio, evaluator.noise_errors
    key = (pipeline.network.sha256, ratio_key(ratio))
    if not n or key in known:
        return known.get(key, {})
    held_out = Latents.open(pipeline.maps.latents.folder, "test")
    found = epsilon_error(
        pipeline.network.network,
        held_out,
        ratio,
        schedule_of(config.diffusion),
        n,
        seed=config.evaluation.seeds[0],
        shared_noise=config.diffusion.shared_noise,
        regions=regions_of(evaluator, pipeline),
        scale=pipeline.scale,
    )
    known[key] = {name: error for name, error in found.items() if error is not None}
    return known[key]


def of_one_map(evaluator: Evaluator, pictures: dict[str, Drawn]) -> dict[str, Drawn]:
    """Figure 3: several images for one map. Nothing where a run's maps are constant."""
    run = evaluator.run
    if run.kind != "content" or is_constant(run.ratio):
        return {}
    label = "main" if "main" in pictures else next(iter(pictures))
    shown = pictures[label]
    pipeline = RunPipeline(run, run.evaluations[label], evaluator.device)
    # the map that has most of both grains
    levels = shown.maps.reshape(len(shown.maps), -1)
    chosen = shown.maps[levels.var(1).argmax()]
    indices = np.arange(min(OF_ONE_MAP, len(shown.images)))
    return {"one_map": pipeline.draw(evaluator.config.evaluation.seeds[0], indices, chosen)}
