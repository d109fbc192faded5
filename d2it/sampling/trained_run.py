"""Drawing images of a run of a study: its networks, the sources of its grain maps, its settings."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2it.clock import milestone
from d2it.config import Config, paths
from d2it.config.ratios import finest
from d2it.config.recipe import data_of, digest, factors_of, kind_of, run_recipe
from d2it.config.schema import Measured, Ratio
from d2it.errors import UserError
from d2it.grains.maps import random_map
from d2it.grains.thresholds import constant_cuts
from d2it.images.packed import read_manifest
from d2it.latents.cache import open_latents
from d2it.machine.device import Device, compile_on
from d2it.models.store import load_model, read_model, weights_name
from d2it.sampling.pipeline import GrainMaps, Part, Pipeline, keyed, schedule_of


def trained(config: Config, run: str) -> dict[str, Any]:
    """The header of the model that `run` was trained to, by the settings that `config` has."""
    folder = paths.model(config, run)
    header = read_model(folder)
    if header["recipe_digest"] != digest(run_recipe(config, run)):
        raise UserError(
            f"{folder} was trained with other settings than {run} has now: run `d2it train {run}`."
        )
    return header


def load_part(
    config: Config, run: str, device: Device, at: float = 1.0, weights: str | float = "ema"
) -> Part:
    header, folder = trained(config, run), paths.model(config, run)
    name = weights_name(header, at, weights)
    network = load_model(folder, name).to(device)
    if config.sampling.compile and kind_of(config, run) != "dvae":
        compile_on(device, network)
    entry = header["files"][f"{name}.safetensors"]
    images = milestone(at, header["images"], header["batch"])
    return Part(network, header["architecture"], images, entry["sha256"])


class Maps(GrainMaps):
    """Grain maps for images `indices` of a ratio of a study, from one of four sources."""

    def __init__(
        self,
        config: Config,
        dvae: str,
        ratio: Ratio,
        source: str,
        grain: str | None,
        device: Device,
    ) -> None:
        self.config, self.ratio = config, ratio
        self.latents = open_latents(config, dvae, "train")
        data = config.data[config.runs.dvae[dvae].data]
        self.flip = data.flip
        cuts = constant_cuts(ratio)
        self.source = source if cuts is None else "constant"
        if self.source == "predicted" and grain is None:
            raise UserError(
                f"No grain run predicts maps of ratio {ratio} from {dvae}: name one as `grain`."
            )
        used = load_part(config, grain, device) if grain and self.source == "predicted" else None
        side, steps = data.size // self.latents.factors[0], config.sampling.grain_steps
        super().__init__(side, cuts, used, steps, schedule_of(config.diffusion), device)

    def draw(self, seed: int, indices: np.ndarray, labels: np.ndarray | None) -> Tensor:
        if self.source not in ("random", "truth"):
            return super().draw(seed, indices, labels)
        one = self._random if self.source == "random" else self._true
        generators = [keyed(seed, "map", int(i)) for i in indices]
        classes = [None] * len(indices) if labels is None else labels.tolist()
        return torch.cat([one(*pair) for pair in zip(generators, classes, strict=True)])

    def _random(self, generator: torch.Generator, label: int | None) -> Tensor:
        """Independent regions (Table 5's first row)."""
        return random_map(generator, 1, self.side, self.ratio)

    def _true(self, generator: torch.Generator, label: int | None) -> Tensor:
        """Of a training image (of the same class), mirrored as in training (the second row)."""
        known = np.asarray(self.latents.labels)
        choices = np.arange(len(known)) if label is None else np.flatnonzero(known == label)
        if not len(choices):
            raise UserError(f"No training image has the label {label}, so it has no true map.")
        image = choices[int(torch.randint(len(choices), (), generator=generator))]
        mirrored = torch.randint(2, (1,), generator=generator).bool() & self.flip
        return self.latents.maps(self.ratio, np.array([image]), mirrored)


class Painter(Pipeline):
    """Draws the images of one content or DiT run as one of its evaluations asks."""

    maps: Maps

    def __init__(self, config: Config, run: str, measured: Measured, device: Device) -> None:
        self.config, self.measured, self.device = config, measured, device
        kind = kind_of(config, run)
        if kind not in ("content", "dit"):
            raise UserError(f"{run} is a {kind} run: only content and DiT runs draw images.")
        spec = getattr(config.runs, kind)[run]
        network = load_part(config, run, device, measured.at, measured.weights)
        dvae = load_part(config, spec.latents, device)
        ratio = spec.ratio if kind == "content" else finest(len(factors_of(config, spec.latents)))
        grain = spec.grain if kind == "content" else None
        maps = Maps(config, spec.latents, ratio, measured.maps, grain, device)
        if maps.latents.header["dvae_digest"] != dvae.sha256:
            raise UserError(
                f"The latents of {spec.latents} were made with other weights than it has now: "
                f"run `d2it encode {spec.latents}` and train {run} again."
            )
        scale = maps.latents.scale(ratio)
        super().__init__(
            kind, network, dvae, maps, scale, config.sampling, config.diffusion, measured.guidance
        )
        self.protocol = config.data[data_of(config, run)].protocol
        packed = paths.images(config, config.runs.dvae[spec.latents].data)
        if (packed / "manifest.json").is_file():  # samples need no images, only their names do
            self.classes = read_manifest(packed)["classes"]
