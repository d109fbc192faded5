"""The Dynamic VAE (section 3.1): a hierarchical encoder with a head per grain, and one decoder.

Paper does not say which layers; we chose Stable Diffusion's f = 8 VAE (83.654 M parameters) with
one more encoder stage and head per coarser factor: F = {16, 8} has 105.990 M. SD's weights fit as
they are.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2it.errors import UserError
from d2it.grains.maps import route, to_grid
from d2it.models.blocks import run_block
from d2it.models.shapes import DvaeShape, Stage, check_shape

LOGVAR_RANGE = (-30.0, 20.0)  # SD's: exp() stays finite

Moments = tuple[Tensor, Tensor]
"""Mean and logvar of the codes of one grain, (N, C, H_i, W_i) each."""


def laid_out(x: Tensor) -> Tensor:
    """In memory, all channels of a pixel side by side: with few channels a CPU's convolutions take
    half the time. One channel after the other on a GPU, whose GroupNorm would copy the rest.
    """
    layout = torch.contiguous_format if x.is_cuda else torch.channels_last
    return x.contiguous(memory_format=layout)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, H W, C)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        tokens = self.out(F.scaled_dot_product_attention(q, k, v))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # to the right and below only, as SD does


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels: int, groups: int) -> nn.Sequential:
    block1, block2 = (ResBlock(channels, channels, groups) for _ in range(2))
    return nn.Sequential(block1, Attention(channels, groups), block2)


def stage(one: Stage, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for block in range(one.blocks):
        layers.append(ResBlock(one.width if block else one.inputs, one.width, groups))
        if one.attends:
            layers.append(Attention(one.width, groups))
    return nn.Sequential(*layers)


class Head(nn.Module):
    """From the features at one resolution to the moments of that grain's codes."""

    def __init__(self, channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.middle = middle(channels, groups)
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv = nn.Conv2d(channels, 2 * latent_channels, 3, padding=1)
        self.quant = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)

    def forward(self, x: Tensor) -> Moments:
        moments = self.quant(self.conv(F.silu(self.norm(self.middle(x)))))
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)


class Encoder(nn.Module):
    """Stage i works at 1/2^i of the resolution; the head of factor f branches off stage log2(f)."""

    def __init__(self, shape: DvaeShape, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths, groups = shape.widths, shape.norm_groups
        self.conv_in = nn.Conv2d(3, shape.channels, 3, padding=1)
        self.stages = nn.ModuleList(stage(one, groups) for one in shape.down)
        self.downsamples = nn.ModuleList(Downsample(width) for width in widths[:-1])
        self.depths = shape.depths
        self.heads = nn.ModuleList(
            Head(widths[depth], shape.latent_channels, groups) for depth in self.depths
        )

    def forward(self, x: Tensor) -> list[Moments]:
        x = self.conv_in(laid_out(x))
        features = []
        for i, blocks in enumerate(self.stages):
            x = self.downsamples[i - 1](x) if i else x
            x = run_block(blocks, x, checkpointing=self.checkpointing)
            features.append(x)
        return [head(features[depth]) for head, depth in zip(self.heads, self.depths, strict=True)]


class Decoder(nn.Module):
    """From the finest grid to pixels: the encoder's stages in reverse, each with one block more."""

    def __init__(self, shape: DvaeShape, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        channels, groups, stages = shape.latent_channels, shape.norm_groups, shape.up
        first, last = stages[0].width, stages[-1].width
        self.quant = nn.Conv2d(channels, channels, 1)
        self.conv_in = nn.Conv2d(channels, first, 3, padding=1)
        self.middle = middle(first, groups)
        self.stages = nn.ModuleList(stage(one, groups) for one in stages)
        self.upsamples = nn.ModuleList(Upsample(one.width) for one in stages[:-1])
        self.norm_out = nn.GroupNorm(groups, last, eps=1e-6)
        self.conv_out = nn.Conv2d(last, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.middle(self.conv_in(self.quant(laid_out(z))))
        for i, blocks in enumerate(self.stages):
            x = self.upsamples[i - 1](x) if i else x
            x = run_block(blocks, x, checkpointing=self.checkpointing)
        return self.conv_out(F.silu(self.norm_out(x)))


class Dvae(nn.Module):
    """Codes of every grain, routed by a grain map to the finest grid, decoded by one decoder.

    With a constant map it is an ordinary VAE of one factor.
    """

    def __init__(
        self,
        factors: Sequence[int],
        size: int,
        latent_channels: int,
        channels: int,
        multipliers: Sequence[int],
        res_blocks: int,
        attention: Sequence[int],
        norm_groups: int = 32,
        checkpointing: bool = False,  # less memory, same numbers: no part of what is stored
        encodes: bool = True,  # False: to draw with, which needs the decoder alone
    ) -> None:
        super().__init__()
        stages = (channels, list(multipliers), res_blocks, list(attention), norm_groups)
        shape = DvaeShape(list(factors), size, latent_channels, *stages)
        check_shape(shape)
        self.factors, self.size, self.latent_channels = list(factors), size, latent_channels
        if encodes:
            self.encoder = Encoder(shape, checkpointing)
        self.decoder = Decoder(shape, checkpointing)

    def encode(self, x: Tensor) -> list[Moments]:
        """(N, 3, H, W) -> mean and logvar (N, C, H/f, W/f) per grain, coarse to fine."""
        if x.shape[1:] != (3, self.size, self.size):
            raise UserError(
                f"The DVAE takes RGB images of {self.size} x {self.size} px, "
                f"not {tuple(x.shape[1:])}."
            )
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """(N, C, H/f, W/f) on the finest grid -> (N, 3, H, W), about [-1, 1] but not clamped."""
        return self.decoder(z)

    def forward(
        self, x: Tensor, map: Tensor, noises: Sequence[Tensor]
    ) -> tuple[Tensor, list[Moments]]:
        """The reconstruction from sampled codes, and the moments.

        Sampled BEFORE neighbour copying, so that all cells of a coarse region share one code.
        """
        moments = self.encode(x)
        codes = [draw_code(*moment, noise) for moment, noise in zip(moments, noises, strict=True)]
        return self.decode(route(codes, map)), moments


def to_network(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Float (N, 3, H, W), about [-1, 1] -> the nearest uint8 (N, H, W, 3)."""
    levels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()  # safetensors writes memory as it lies


def draw_code(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A draw from the posterior."""
    return mean + torch.exp(0.5 * logvar) * noise


def in_use(map: Tensor, k: int) -> list[Tensor]:
    """Per grain, coarse to fine, which of its codes the map uses: (N, 1, H_i, W_i) bool."""
    return [to_grid(map == grain, 2**grain)[:, None] for grain in range(k)]
