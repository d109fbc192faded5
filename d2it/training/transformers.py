"""Training of the second stage (section 3.2) on cached latents: grain maps, content, and DiT."""

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from d2it.config.ratios import at_least
from d2it.config.run import Run
from d2it.config.types import Ratio
from d2it.cost.macs import training_flops
from d2it.diffusion import Schedule, noise_loss
from d2it.files import canonical_digest
from d2it.grains.maps import cell_weights, copy_within, grain_map, mean_per_grain, per_image
from d2it.grains.mixture import random_shares
from d2it.latents.cache import mirror, open_latents, route_sample
from d2it.models.architecture import architecture
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT
from d2it.models.grain_transformer import GrainTransformer, grain_loss, one_hot
from d2it.training.task import Learner

Batch = dict[str, Tensor]


class SecondStageTask:
    """What the three second-stage tasks share: latents of a DVAE, noised at random times."""

    builder: type[nn.Module]

    def __init__(self, run: Run) -> None:
        self.kind, self.ratio = run.kind, run.ratio
        training, diffusion = run.training, run.config.diffusion
        self.latents = open_latents(run.dvae, "train")
        self.size = len(self.latents)
        self.flip = run.dataset.flip
        self.schedule = Schedule(diffusion.timesteps, diffusion.beta_start, diffusion.beta_end)
        self.shared_noise = diffusion.shared_noise
        self.label_dropout = training.label_dropout
        self.architecture: dict[str, Any] = architecture(run)
        self.classes: int = self.architecture["classes"]
        self.recipe = run.recipe
        self.inputs = {"latents": canonical_digest(self.latents.header["files"])}
        self.extra: dict[str, Any] = {}
        self.notes: list[str] = []
        skips = self.architecture.get("skip_windows", False)
        reached = self.mean_ratio if skips else None
        self.flops = training_flops(self.kind, self.architecture, reached)
        network = self.builder(**self.architecture, checkpointing=training.checkpointing)
        self.learners = [Learner(self.kind, network, training, training.learning_rate)]

    def draw(self, generator: Generator, n: int, images_seen: int) -> Batch:
        """Time, mirroring, label dropout (n,), and noise in the shape of what is noised."""
        mirrored = torch.rand(n, generator=generator) < 0.5
        return {
            "t": torch.randint(self.schedule.timesteps, (n,), generator=generator),
            "mirrored": mirrored & self.flip,
            "hidden": torch.rand(n, generator=generator) < self.label_dropout,
            "noise": torch.randn((n, *self.noised_shape()), generator=generator),
        }

    @property
    def mean_ratio(self) -> Ratio:
        """The run's ratio; the mean of random ones."""
        return self.latents.reached("random") if isinstance(self.ratio, str) else self.ratio

    def draw_ratios(self, generator: Generator, n: int) -> Batch:
        """Cuts (n, k-1) of each image's grain map: of the run's ratio, or of one drawn for each,
        which `reached` says as the shares of grain 1 or finer, 2 or finer, …, (n, k-1).
        """
        if not isinstance(self.ratio, str):
            return {"cuts": torch.tensor([self.latents.cuts(self.ratio)]).expand(n, -1)}
        drawn = random_shares(generator, n, self.latents.grains - 1)
        return {
            "cuts": torch.tensor([self.latents.cuts(shares) for shares in drawn]),
            "reached": torch.tensor([at_least(shares) for shares in drawn]),
        }

    def noised_shape(self) -> tuple[int, int, int]:
        raise NotImplementedError

    def labels(self, batch: Batch) -> Tensor | None:
        """Classes, some hidden behind "no class" for guidance's sake; None if unconditional."""
        if not self.classes:
            return None
        return torch.where(batch["hidden"], self.classes, batch["label"])


class GrainTask(SecondStageTask):
    """Training of the Dynamic Grain Transformer: the clean map from a noisy one (Eq 4-5)."""

    builder = GrainTransformer

    def noised_shape(self) -> tuple[int, int, int]:
        side = self.architecture["side"]
        return self.latents.grains, side, side

    def fetch(self, indices: np.ndarray) -> Batch:
        """{"entropy": (n, h, w) of the unmirrored images, "label": (n,)}"""
        labels = torch.from_numpy(self.latents.labels[indices])
        return {"entropy": self.latents.entropy(indices), "label": labels}

    def draw(self, generator: Generator, n: int, images_seen: int) -> Batch:
        return super().draw(generator, n, images_seen) | self.draw_ratios(generator, n)

    def loss(
        self, learner: str, networks: dict[str, nn.Module], batch: Batch, images_seen: int
    ) -> tuple[Tensor, Batch]:
        entropy = mirror(batch["entropy"], batch["mirrored"])
        map = grain_map(entropy, per_image(batch["cuts"]))
        clean = one_hot(map, self.latents.grains)
        noisy = self.schedule.q_sample(clean, batch["t"], batch["noise"])
        logits = networks[learner](noisy, batch["t"], self.labels(batch), batch.get("reached"))
        accuracy = (logits.detach().argmax(1) == map).float().mean()
        return grain_loss(logits, map), {"accuracy": accuracy}


class CodesTask(SecondStageTask):
    """Training on latent codes: the noise of each, weighted by grain or not (Eq 11)."""

    normaliser: float | None = None  # of the weights alpha; None: every cell counts alike

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.scale = self.latents.scale(self.ratio)

    def noised_shape(self) -> tuple[int, int, int]:
        return self.latents.channels, self.latents.side, self.latents.side

    def fetch(self, indices: np.ndarray) -> Batch:
        """Moments of every grain for both mirrors, entropies, labels (see Latents.fetch)."""
        return self.latents.fetch(indices)

    def draw(self, generator: Generator, n: int, images_seen: int) -> Batch:
        drawn = super().draw(generator, n, images_seen)
        for grain, shape in enumerate(self.latents.noise_shapes()):
            drawn[f"posterior_{grain}"] = torch.randn((n, *shape), generator=generator)
        return drawn | self.draw_ratios(generator, n)

    def loss(
        self, learner: str, networks: dict[str, nn.Module], batch: Batch, images_seen: int
    ) -> tuple[Tensor, Batch]:
        grains = self.latents.grains
        posterior = [batch[f"posterior_{grain}"] for grain in range(grains)]
        cuts = per_image(batch["cuts"])
        z0, map = route_sample(batch, posterior, batch["mirrored"], cuts, self.scale)
        # eps_i of Eq 11 is the noise of a code: a coarse region's cells share one, as its code
        noise = copy_within(batch["noise"], map, grains) if self.shared_noise else batch["noise"]
        zt = self.schedule.q_sample(z0, batch["t"], noise)
        prediction = self.predict(networks[learner], zt, batch["t"], self.labels(batch), map)
        weights = cell_weights(map, grains) / self.normaliser if self.normaliser else None
        loss = noise_loss(self.schedule, prediction, z0, zt, batch["t"], noise, weights)
        return loss, grain_errors(prediction.detach(), noise, map, grains)

    def predict(
        self, network: nn.Module, zt: Tensor, t: Tensor, y: Tensor | None, map: Tensor
    ) -> Tensor:
        raise NotImplementedError


class ContentTask(CodesTask):
    """Training of the Dynamic Content Transformer: multi-grained noise under a given grain map."""

    builder = ContentTransformer

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        if run.spec.grain_loss:
            self.normaliser = mean_weight(self.mean_ratio) if run.spec.normalise_loss else 1.0

    def predict(
        self, network: nn.Module, zt: Tensor, t: Tensor, y: Tensor | None, map: Tensor
    ) -> Tensor:
        return network(zt, t, y, map)


class DitTask(CodesTask):
    """Training of the DiT baseline: the same data with every region fine."""

    builder = DiT

    def predict(
        self, network: nn.Module, zt: Tensor, t: Tensor, y: Tensor | None, map: Tensor
    ) -> Tensor:
        return network(zt, t, y)


def mean_weight(ratio: Ratio) -> float:
    """The mean of alpha over the cells of a data set with these shares of grains: .625 at ratio
    .5.
    """
    finer = [1.0, *at_least(ratio), 0.0]  # shares of regions of grain i or finer
    k = len(finer) - 1
    return sum((finer[i] - finer[i + 1]) * 0.25 ** (k - 1 - i) for i in range(k))


def grain_errors(prediction: Tensor, noise: Tensor, map: Tensor, grains: int) -> Batch:
    """Mean squared error of the noise on the cells of each grain, unweighted; 0 where there are
    none.
    """
    error = (prediction[:, : noise.shape[1]].float() - noise).square().mean(1)  # (N, H, W)
    means = mean_per_grain(error, map, grains)
    return {f"mse_{grain}": mean for grain, mean in enumerate(means)}
