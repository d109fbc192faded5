"""What the DVAE is trained with: L1 + LPIPS + KL + GAN.

Paper does not say; we chose the losses of its lineage (VQGAN, LDM, DQ-VAE). Reductions: L1 is a
mean over pixel values, LPIPS over images, GAN terms over patches; KL is a sum over codes per pixel
value.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from d2it.models.dvae import Moments, in_use

EPSILON = 1e-4  # keeps the adaptive weight finite where the GAN has no gradient


def kl_per_value(moments: Sequence[Moments], map: Tensor, pixels: int) -> Tensor:
    """KL(posterior || N(0, 1)): sum of an image's codes in use / its pixel values, mean of images.

    A coarse region has a coarse code only, a fine one its fine codes: all others neither cost nor
    learn. LDM's weight 1e-6 is for the sum over codes beside a sum over pixel values, hence the
    division: our other terms are means over pixel values.
    """
    total = torch.zeros((), device=map.device)
    for (mean, logvar), used in zip(moments, in_use(map, len(moments)), strict=True):
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar)  # (N, C, H_i, W_i)
        total = total + torch.where(used, kl, 0.0).sum()
    return total / (len(map) * 3 * pixels)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, gan: Tensor, cap: float) -> Tensor:
    """How much the GAN counts: ratio of gradients at the decoder's last layer (VQGAN), capped."""
    return (reconstruction.norm() / (gan.norm() + EPSILON)).clamp(max=cap).detach()
