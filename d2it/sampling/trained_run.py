"""Drawing images of a run of a study: its networks, the sources of its grain maps, its settings."""

import numpy as np
import torch
from torch import Tensor

from d2it.clock import milestone
from d2it.config import paths
from d2it.config.experiments import Measured
from d2it.config.ratios import is_constant
from d2it.config.run import Run
from d2it.config.types import Learned, Ratio
from d2it.errors import SETTINGS, UserError
from d2it.grains.maps import random_map
from d2it.images.packed import read_manifest
from d2it.latents.cache import open_latents
from d2it.machine.device import Device, compile_on
from d2it.models.store import load_model, trained, weights_name
from d2it.sampling.pipeline import GrainMaps, Part, Pipeline, keyed, schedule_of


def load_part(run: Run, device: Device, at: float = 1.0, weights: str | float = "ema") -> Part:
    header = trained(run)
    name = weights_name(header, at, weights)
    network = load_model(run.model, name).to(device)
    if run.config.sampling.compile and run.kind != "dvae":
        compile_on(device, network)
    entry = header["files"][f"{name}.safetensors"]
    images = milestone(at, header["images"], header["batch"])
    return Part(network, header["architecture"], images, entry["sha256"])


class Maps(GrainMaps):
    """Grain maps for images `indices` of a ratio of a study, from one of four sources."""

    def __init__(
        self,
        dvae: Run,
        ratio: Ratio,
        source: str,
        grain: Run | None,
        device: Device,
        learned: Learned | None = None,  # None: from that ratio alone
    ) -> None:
        config = self.config = dvae.config
        self.latents = open_latents(dvae, "train")
        self.flip = dvae.dataset.flip
        self.asked, learned = source, ratio if learned is None else learned
        predicted = source == "predicted" and not is_constant(learned)
        if predicted and grain is None:
            raise UserError(
                f"No grain run predicts maps of ratio {ratio} from {dvae.name}: "
                "name one as `grain`."
            )
        used = load_part(grain, device) if grain and predicted else None
        side, steps = dvae.dataset.size // self.latents.factors[0], config.sampling.grain_steps
        schedule = schedule_of(config.diffusion)
        super().__init__(side, ratio, learned, used, steps, schedule, device)

    @property
    def source(self) -> str:
        return self.asked if self.cuts is None else "constant"

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


class RunPipeline(Pipeline):
    """Draws the images of one content or DiT run as one of its evaluations asks."""

    maps: Maps

    def __init__(self, run: Run, measured: Measured, device: Device) -> None:
        config = self.config = run.config
        self.measured, self.device = measured, device
        if run.kind not in ("content", "dit"):
            raise UserError(
                f"{run.name} is a {run.kind} run: only content and DiT runs draw images."
            )
        network = load_part(run, device, measured.at, measured.weights)
        dvae, name = load_part(run.dvae, device), run.dvae.name
        ratio = run.main_ratio if measured.ratio is None else measured.ratio
        maps = Maps(run.dvae, ratio, measured.maps, run.grain, device, run.ratio)
        if maps.latents.header["dvae_digest"] != dvae.sha256:
            raise UserError(
                f"The latents of {name} were made with other weights than it has now: "
                f"run `d2it encode {name}{SETTINGS}` and train {run.name} again."
            )
        super().__init__(
            run.kind,
            network,
            dvae,
            maps,
            maps.latents.scale(run.ratio),
            config.sampling,
            config.diffusion,
            measured.guidance,
        )
        self.protocol = run.dataset.protocol
        packed = paths.images(config, run.data)
        if (packed / "manifest.json").is_file():  # samples need no images, only their names do
            self.classes = read_manifest(packed)["classes"]
