"""The parts that every transformer here is made of: DiT's, with Eq 10's bias as an option.

Numerics follow Peebles and Xie's DiT: tanh GELU, LayerNorm with eps 1e-6 and without weights,
adaLN-zero, sin-cos positions, timesteps embedded in 256 cosines and sines.
Shapes: N images, T tokens, width h.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2it.errors import UserError
from d2it.models.shapes import FREQUENCIES


def sincos_positions(width: int, side: int) -> Tensor:
    """Fixed positions of a square of tokens: column then row, sines then cosines. (T, h)."""
    place = torch.arange(side, dtype=torch.float64)
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = place[:, None] * rates  # (side, width / 4)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    column = line[None].expand(side, -1, -1)  # the column of token (row, column)
    row = line[:, None].expand(-1, side, -1)
    return torch.cat([column, row], dim=2).reshape(side * side, width).float()


def positions(width: int, side: int, learned: bool) -> nn.Parameter:
    """Sin-cos positions that stay, or are only the start of learning."""
    return nn.Parameter(sincos_positions(width, side), requires_grad=learned)


class PatchEmbed(nn.Module):
    """Patchify: (N, C, H, W) -> (N, T, h), row by row."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))  # as the linear layer it is
        self.proj.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """(N, T, patch^2 C) -> (N, C, H, W), the tokens of a square grid row by row."""
    n, tokens, out = x.shape
    side, channels = math.isqrt(tokens), out // patch**2
    x = x.view(n, side, side, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, channels, side * patch, side * patch)


def check_latents(x: Tensor, channels: int, side: int) -> None:
    if x.shape[1:] != (channels, side, side):
        raise UserError(
            f"This network takes {(channels, side, side)} latents, "
            f"but was given {tuple(x.shape[1:])}: use its own."
        )


def linear(inputs: int, outputs: int, *, zero: bool = False, std: float | None = None) -> nn.Linear:
    """A linear layer with DiT's start: Xavier-uniform, zeros or normal; no bias at first."""
    layer = nn.Linear(inputs, outputs)
    if zero:
        nn.init.zeros_(layer.weight)
    elif std is not None:
        nn.init.normal_(layer.weight, std=std)
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def table(rows: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=0.02)
    return embedding


class TimestepEmbedder(nn.Module):
    """t -> cosines and sines of geometric frequencies -> two layers. (N,) -> (N, h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            linear(FREQUENCIES, width, std=0.02), nn.SiLU(), linear(width, width, std=0.02)
        )

    def forward(self, t: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * index / half)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class SharesEmbedder(nn.Module):
    """Shares in [0, 1], each embedded as a timestep is, on the scale of 1000 steps; their sum.

    Beyond the paper: what tells the Grain Transformer the ratio that it is to draw a map of.
    """

    def __init__(self, width: int, shares: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(TimestepEmbedder(width) for _ in range(shares))

    def forward(self, shares: Tensor) -> Tensor:
        """(N, shares) -> (N, h)."""
        columns = (1000 * shares).unbind(1)
        embedded = [embed(column) for embed, column in zip(self.each, columns, strict=True)]
        return torch.stack(embedded).sum(0)


class Condition(nn.Module):
    """Timestep and class: the vector c of Eq 6 and Eq 8 (its third part, the grain map, differs by
    token).

    With classes = 0 there is no label table; else the last of its classes + 1 rows is "no class".
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.time = TimestepEmbedder(width)
        self.label = table(classes + 1, width) if classes else None

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """t (N,), y (N,) or None -> (N, h)."""
        c = self.time(t)
        if self.label is None:
            return c
        if y is None:
            y = torch.full_like(t, self.classes, dtype=torch.long)
        if (
            y.device.type == "cpu"
            and len(y)
            and not 0 <= int(y.min()) <= int(y.max()) <= self.classes
        ):
            raise UserError(
                f"A label is outside 0..{self.classes}, what this network knows "
                f"({self.classes} classes, then 'no class'): give labels in that range."
            )
        return c + self.label(y)


class HeadNorm(nn.RMSNorm):
    """Bounds queries and keys, in float32 whatever the precision: keeps long bf16 runs stable."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Attention(nn.Module):
    """Self-attention among the tokens of a row; a bias is added to the scores (Eq 10)."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise UserError(
                f"A width of {width} does not divide into {heads} heads: choose another."
            )
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.proj = linear(width, width)
        self.q_norm = HeadNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (B, T, h), bias broadcastable to (B, heads, T, T) -> (B, T, h)."""
        b, t, h = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # (B, heads, T, h / heads); its gradients are joined in one copy
        q, k = self.q_norm(q), self.k_norm(k)
        if bias is not None:
            bias = bias.to(q.dtype).expand(b, self.heads, t, t)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(b, t, h))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Modulation(nn.Sequential):
    """adaLN-zero: `parts` vectors from the condition, zero at first. (N, h) -> parts x (B, h).

    `rows` (B,) names the image of each row of tokens: windows share theirs, computed once.
    """

    def __init__(self, width: int, parts: int) -> None:
        super().__init__(nn.SiLU(), linear(width, parts * width, zero=True))
        self.parts = parts

    def forward(self, c: Tensor, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        modulation = super().forward(c)
        if rows is not None:
            # In bf16 each addition to the gradient of an image's vectors would be rounded. If all
            # windows are computed, a broadcast would save this copy, small beside their tokens, but
            # sum its gradient in another order: not the same run to the bit.
            modulation = modulation.float()[rows].to(modulation.dtype)
        return modulation.chunk(self.parts, dim=1)


class Block(nn.Module):
    """A DiT block. x (B, T, h), c (N, h); B = N, or B windows of the images named by `rows`."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(
            linear(width, hidden), nn.GELU(approximate="tanh"), linear(hidden, width)
        )
        self.modulation = Modulation(width, 6)

    def forward(
        self, x: Tensor, c: Tensor, bias: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c, rows)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1), bias)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """An output head, zero at first: tokens (B, T, h) -> cells (B, T, patch^2 C)."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = Modulation(width, 2)
        self.linear = linear(width, patch**2 * channels, zero=True)

    def forward(self, x: Tensor, c: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.linear(modulate(self.norm(x), *self.modulation(c, rows)))


def run_blocks(
    blocks: Iterable[nn.Module], x: Tensor, c: Tensor, checkpointing: bool = False
) -> Tensor:
    for block in blocks:
        x = run_block(block, x, c, checkpointing=checkpointing)
    return x


def run_block(
    block: Callable[..., Tensor], x: Tensor, *arguments: Tensor | None, checkpointing: bool
) -> Tensor:
    """One block; with `checkpointing` its activations are computed again for the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, *arguments, use_reentrant=False)
    return block(x, *arguments)
