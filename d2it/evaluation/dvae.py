"""Evaluation of a DVAE run: how well held-out images survive coding, at every ratio it serves."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2it.config.ratios import numeric
from d2it.config.recipe import ratio_key
from d2it.config.types import Ratio
from d2it.errors import UserError
from d2it.evaluation.compare import rank_deficient
from d2it.evaluation.measure import PICTURES, Evaluated, Evaluator
from d2it.evaluation.metrics import Gaussian, frechet_distance
from d2it.evaluation.reconstruction import numbers_per_image, reconstruct, reconstruction_metrics
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import grain_map, reached_shares
from d2it.grains.thresholds import constant_cuts, cuts_of
from d2it.images.packed import PackedImages, open_images
from d2it.models.inception import BLOCK
from d2it.models.lpips import Lpips
from d2it.sampling.pipeline import Drawn
from d2it.sampling.trained_run import load_part

CHUNK = 16 * BLOCK  # images in memory at once


def first_stage(evaluator: Evaluator) -> dict[str, Evaluated]:
    """rFID against the very images that were coded, PSNR, SSIM and LPIPS, by ratio."""
    coder = Coder(evaluator)
    ratios = {ratio_key(ratio): ratio for ratio in numeric(evaluator.run.spec.ratios)}
    return {f"r{key}": coder.evaluate(f"r{key}", ratio) for key, ratio in ratios.items()}


class Coder:
    """Codes and decodes the first held-out images."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.config = evaluator, evaluator.config
        self.n = evaluator.run.spec.n or self.config.evaluation.n
        self.part = load_part(evaluator.run, evaluator.device)
        self.region = self.part.architecture["factors"][0]
        self.images = judged_images(evaluator, self.n)

    def evaluate(self, label: str, ratio: Ratio) -> Evaluated:
        recipe = self.recipe(ratio)

        def compute() -> Evaluated:
            maps = torch.cat([self.maps(images, ratio) for _, images in self.chunks("maps")])
            numbers = numbers_per_image(self.part.network, maps)
            features, sums, shown = [], dict[str, float](), []
            for indices, images in self.chunks(label):
                coded = reconstruct(self.part.network, images, maps[indices])
                features.append(self.evaluator.extractor(coded))
                found = reconstruction_metrics(images, coded, numbers, self.perceptual)
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value * len(images)
                labels = self.images.labels[indices]
                shown.append(Drawn(coded, maps[indices].numpy(), labels)[:PICTURES])
            coded_as = Gaussian.of(np.concatenate(features), self.evaluator.device)
            metrics = {name: value / self.n for name, value in sums.items()}
            metrics["rfid"] = frechet_distance(coded_as, self.originals)
            shares = reached_shares(maps, len(self.part.architecture["factors"]))
            metrics |= {name: share.item() for name, share in shares.items()}
            return Evaluated(metrics, dict.fromkeys(metrics), recipe, shown[0])

        return self.evaluator.remember(label, recipe, compute)

    @cached_property
    def perceptual(self) -> Lpips:
        """With the backbone of the training's loss: the one that is fetched for it."""
        return Lpips.load(self.config.dvae_loss.perceptual).to(self.evaluator.device)

    @cached_property
    def originals(self) -> Gaussian:
        chunks = self.chunks("originals")
        features = [self.evaluator.extractor(images) for _, images in chunks]
        return Gaussian.of(np.concatenate(features), self.evaluator.device)

    def chunks(self, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, images) in turn, with a progress bar."""
        name = f"{self.evaluator.run.name} {what}"
        with tqdm(total=self.n, unit="image", desc=name, disable=None) as bar:
            for start in range(0, self.n, CHUNK):
                indices = np.arange(start, min(start + CHUNK, self.n))
                yield indices, self.images[indices]
                bar.update(len(indices))

    def maps(self, images: np.ndarray, ratio: Ratio) -> Tensor:
        """Each image's own grain map (n, h, w)."""
        config, data = self.config, self.evaluator.run.data
        entropy = entropy_map(torch.from_numpy(images), self.region, *config.kernel)
        return grain_map(entropy, cuts_of(config, data, self.region, ratio))

    def recipe(self, ratio: Ratio) -> dict[str, Any]:
        data = self.evaluator.run.data
        constant = constant_cuts(ratio) is not None
        return self.evaluator.protocol | {
            "n": self.n,
            "lpips": self.config.dvae_loss.perceptual,
            "ratio": ratio,
            "cuts": None if constant else cuts_of(self.config, data, self.region, ratio),
            "split": self.images.split,
            "images": self.part.images,
            "weights": "ema",
            "weights_sha256": self.part.sha256,
            "reference": f"the same images of {data}",
            "reference_n": self.n,
            "reference_digest": self.images.digest,
            "rank_deficient": rank_deficient(self.n),
        }


def judged_images(evaluator: Evaluator, n: int) -> PackedImages:
    """The held-out images; where a data set has none (FFHQ's 70,000 train), the training images."""
    data = evaluator.run.data
    test = open_images(evaluator.config, data, "test")
    images = test if len(test) else open_images(evaluator.config, data, "train")
    if len(images) < n:
        setting = f"runs.dvae.{evaluator.run.name}.n" if evaluator.run.spec.n else "evaluation.n"
        raise UserError(
            f"{data} has {len(images)} {images.split} images, but {setting} asks for {n}: raise "
            f"data.{data}.{images.split} or lower {setting}."
        )
    return images
