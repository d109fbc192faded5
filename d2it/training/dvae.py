"""Training of the DVAE (section 3.1): the generator (Dvae) and the discriminator, step by step."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from d2it.config.run import Run
from d2it.cost.macs import training_flops
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import grain_map, mean_per_grain, per_image, reached_shares
from d2it.grains.mixture import random_shares
from d2it.grains.thresholds import cuts_of, thresholds_of
from d2it.images.packed import open_images
from d2it.models.architecture import architecture
from d2it.models.discriminator import Discriminator
from d2it.models.dvae import Dvae, Moments, draw_code, in_use, to_network
from d2it.models.from_autoencoder import warm_start
from d2it.models.lpips import Lpips
from d2it.training.dvae_loss import (
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    kl_per_value,
)
from d2it.training.task import Learner

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


class DvaeTask:
    """Reconstruction through codes routed by each image's own map, at a fixed or random ratio."""

    kind = "dvae"

    def __init__(self, run: Run) -> None:
        config, training = run.config, run.training
        self.loss_settings = config.dvae_loss
        self.kernel = config.kernel
        self.flip = run.dataset.flip
        self.images = open_images(config, run.data, "train")
        self.size = len(self.images)
        self.architecture: dict[str, Any] = architecture(run)
        self.recipe = run.recipe
        self.cut = cut_drawer(run)
        self.inputs = {"images": self.images.digest}
        if "thresholds" in self.recipe["inputs"]:
            self.inputs["thresholds"] = thresholds_of(config, run.data, run.factors[0]).digest
        self.extra: dict[str, Any] = {}
        self.flops = training_flops(self.kind, self.architecture)
        self.dvae = Dvae(**self.architecture, checkpointing=training.checkpointing)
        model = config.model.dvae
        self.notes = [warm_start(self.dvae, model.warm_start)] if model.warm_start else []
        discriminator = Discriminator(
            model.discriminator_channels, model.discriminator_layers, model.norm_groups
        )
        rate = training.learning_rate
        second_rate = self.loss_settings.discriminator_learning_rate or rate
        self.learners = [
            Learner(GENERATOR, self.dvae, training, rate),
            Learner(DISCRIMINATOR, discriminator, training, second_rate),
        ]
        self.lpips = Lpips.load(self.loss_settings.perceptual)
        self.to_judge: deque[Tensor] = deque()  # reconstructions, in the order of the shards

    @property
    def grains(self) -> int:
        return len(self.dvae.factors)

    def fetch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """{"images": (n, H, W, 3) uint8}"""
        return {"images": torch.from_numpy(np.ascontiguousarray(self.images[indices]))}

    def draw(self, generator: Generator, n: int, images_seen: int) -> dict[str, Tensor]:
        """Cuts (n, k-1) of each image's grain map, mirroring (n,), posterior noise per grain."""
        drawn = {"cuts": self.cut(generator, n)}
        mirrored = torch.rand(n, generator=generator) < 0.5
        drawn["mirrored"] = mirrored & self.flip
        for grain, factor in enumerate(self.dvae.factors):
            shape = (n, self.dvae.latent_channels, *[self.dvae.size // factor] * 2)
            drawn[f"noise_{grain}"] = torch.randn(shape, generator=generator)
        return drawn

    def loss(
        self,
        learner: str,
        networks: dict[str, nn.Module],
        batch: dict[str, Tensor],
        images_seen: int,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        playing = images_seen >= self.loss_settings.gan_start
        images = torch.where(
            batch["mirrored"][:, None, None, None], batch["images"].flip(2), batch["images"]
        )
        x = to_network(images)
        if learner == DISCRIMINATOR:
            if not playing:
                return None, {}
            return self._discriminator_loss(networks[DISCRIMINATOR], x, self.to_judge.popleft())
        entropy = entropy_map(images, self.dvae.factors[0], *self.kernel)
        map = grain_map(entropy, per_image(batch["cuts"]))
        noises = [batch[f"noise_{grain}"] for grain in range(self.grains)]
        reconstruction, moments = networks[GENERATOR](x, map, noises)
        if playing:  # the discriminator's turn comes when all shards have had the generator's
            self.to_judge.append(reconstruction.detach())
        discriminator = networks[DISCRIMINATOR] if playing else None
        loss, logs = self._generator_loss(discriminator, x, reconstruction, moments, map)
        return loss, logs | self._measures(x, reconstruction.detach(), moments, noises, map)

    def _generator_loss(
        self,
        discriminator: nn.Module | None,
        x: Tensor,
        reconstruction: Tensor,
        moments: list[Moments],
        map: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 + LPIPS + KL + weighted GAN, with the gradients of the costly terms taken once.

        The adaptive weight needs the gradients of the reconstruction and GAN terms at the decoder's
        last layer. Both are taken at the image, so that LPIPS and discriminator are differentiated
        once, carried one layer back for the weight, and joined in a linear form of the image that
        has the gradient of the whole.
        """
        settings = self.loss_settings
        image = reconstruction.detach().requires_grad_()
        l1, lpips = (image - x).abs().mean(), self.lpips.to(x.device)(image, x).mean()
        rec = l1 + settings.perceptual_weight * lpips
        (pull,) = torch.autograd.grad(rec, image)
        kl = kl_per_value(moments, map, x[0, 0].numel())
        total = rec.detach() + settings.kl_weight * kl
        logs = {"rec": rec, "l1": l1, "lpips": lpips, "kl": kl}
        if discriminator is not None:
            gan = hinge_generator(discriminator(image))
            (push,) = torch.autograd.grad(gan, image)
            last = self.dvae.decoder.conv_out.weight
            of_rec, of_gan = (
                torch.autograd.grad(reconstruction, last, gradient, retain_graph=True)[0]
                for gradient in (pull, push)
            )
            adaptive = adaptive_weight(of_rec, of_gan, settings.gan_weight_cap)
            weight = settings.gan_weight * adaptive
            pull = pull + weight * push
            total = total + weight * gan.detach()
            logs |= {"d_weight": adaptive, "gan": gan}
        linear = (reconstruction * pull).sum()
        logs = {name: value.detach() for name, value in logs.items()}
        return total + linear - linear.detach(), logs

    def _discriminator_loss(
        self, discriminator: nn.Module, x: Tensor, reconstruction: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # one pass over both: GroupNorm sees each image alone, and a wrapped network is called once
        real, fake = discriminator(torch.cat([x, reconstruction])).chunk(2)
        loss = hinge_discriminator(real, fake)
        logs = {"d_loss": loss, "d_real": real.mean(), "d_fake": fake.mean()}
        return loss, {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def _measures(
        self, x: Tensor, y: Tensor, moments: list[Moments], noises: list[Tensor], map: Tensor
    ) -> dict[str, Tensor]:
        """PSNR (dB), shares of finer grains, and by grain: L1 of regions, deviation of codes."""
        error = (y.clamp(-1, 1) - x).square().mean((1, 2, 3))
        measures = {
            "psnr": (10 * torch.log10(4 / error.clamp(min=1e-10))).mean(),
            **reached_shares(map, self.grains),
        }
        errors = mean_per_grain((y - x).abs().mean(1), map, self.grains)
        measures |= {f"l1_{grain}": mean for grain, mean in enumerate(errors)}
        used = in_use(map, self.grains)
        for grain, (moment, noise) in enumerate(zip(moments, noises, strict=True)):
            code = draw_code(*moment, noise)
            weight = used[grain].expand_as(code).float()
            count = weight.sum().clamp(min=1)
            mean = (weight * code).sum() / count
            variance = (weight * (code - mean) ** 2).sum() / count
            measures[f"std_{grain}"] = variance.sqrt()
        return measures


def cut_drawer(run: Run) -> Callable[[Generator, int], Tensor]:
    """What draws the entropy cuts (n, k-1) of n images: of the run's ratio, or of one per image."""
    config, region, ratio = run.config, run.factors[0], run.spec.ratio
    if isinstance(ratio, str):
        thresholds, finer = thresholds_of(config, run.data, region), len(run.factors) - 1
        return lambda generator, n: torch.tensor(
            [thresholds.cut(shares) for shares in random_shares(generator, n, finer)]
        )
    cuts = cuts_of(config, run.data, region, ratio)
    return lambda generator, n: torch.tensor([cuts] * n)
