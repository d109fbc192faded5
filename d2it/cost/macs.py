"""Parameters and multiply-accumulates in closed form, from a network's constructor arguments.

MACs are what the DiT paper calls Gflops: those of weights and attention in one forward pass of one
image; biases, norms and look-ups are not counted. Nothing is allocated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2it.config.ratios import at_least, finest, half_finest
from d2it.config.types import Ratio
from d2it.models.lpips_layers import BACKBONES
from d2it.models.shapes import (
    FREQUENCIES,
    SHAPES,
    ContentShape,
    DvaeShape,
    GrainShape,
    Stage,
    TransformerShape,
)


@dataclass(frozen=True)
class Cost:
    trainable: int = 0
    frozen: int = 0  # parameters that stay as they are: sin-cos positions
    macs: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.trainable + other.trainable, self.frozen + other.frozen, self.macs + other.macs
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.trainable * times, self.frozen * times, self.macs * times)


def parameters(kind: str, architecture: dict[str, Any]) -> dict[str, int]:
    """Trainable (what DiT prints) and all parameters, fixed positions included."""
    found = cost(kind, architecture)
    return {"trainable": found.trainable, "total": found.trainable + found.frozen}


def training_flops(kind: str, architecture: dict[str, Any], ratio: Ratio | None = None) -> float:
    """FLOPs that the network's training takes for one image: what TFLOP/s and MFU are counted in.

    Two to a multiply-accumulate; the backward pass is two forward passes. What checkpointing
    computes again, losses, LPIPS and the discriminator are not counted: work is not progress.
    """
    return 2 * 3 * cost(kind, architecture, ratio).macs


def gmacs(kind: str, architecture: dict[str, Any], ratio: Ratio | None = None) -> dict[str, float]:
    """10^9 MACs of a forward pass: dense, and with RefineNets on the finer tokens alone.

    ratio None: half of the regions are finest, the others in equal parts of the grains between and
    of the coarsest.
    """
    if ratio is None:
        ratio = half_finest(architecture.get("grains", 2))
    dense, sparse = (cost(kind, architecture, share).macs / 1e9 for share in (None, ratio))
    return {"dense": round(dense, 9), "sparse": round(sparse, 9)}


def live_gmacs(architecture: dict[str, Any], live: Sequence[float]) -> float:
    """10^9 MACs of a content network's forward pass in which each RefineNet, coarse to fine,
    computes such a share of its windows. Without RefineNets there are none.
    """
    shares = [here - finer for here, finer in zip(live, [*live[1:], 0.0], strict=False)]
    return cost("content", architecture, shares or None).macs / 1e9


def cost(kind: str, architecture: dict[str, Any], ratio: Ratio | None = None) -> Cost:
    """The cost of one network; `ratio` None counts all of RefineNet's tokens."""
    shape = SHAPES[kind](**architecture)
    if isinstance(shape, DvaeShape):
        return encoder(shape) + decoder(shape)
    return transformer(shape, ratio)


# Transformers: h width, T tokens. See d2it/models/blocks.py.


def linear(inputs: int, outputs: int, rows: float) -> Cost:
    return Cost(inputs * outputs + outputs, macs=rows * inputs * outputs)


def condition(width: int, classes: int) -> Cost:
    label = Cost((classes + 1) * width if classes else 0)
    return linear(FREQUENCIES, width, 1) + linear(width, width, 1) + label


def block(shape: TransformerShape, tokens: float, seen: int) -> Cost:
    """A DiT block whose tokens each attend to `seen` others: 18 h^2 + 15 h parameters."""
    width, hidden = shape.width, int(shape.width * shape.mlp_ratio)
    attention = linear(width, 4 * width, tokens) + Cost(macs=2 * tokens * seen * width)
    mlp = linear(width, hidden, tokens) + linear(hidden, width, tokens)
    norms = Cost(2 * (width // shape.heads) if shape.qk_norm else 0)
    return attention + mlp + norms + linear(width, 6 * width, 1)


def head(width: int, tokens: float, patch: int, outputs: int) -> Cost:
    return linear(width, 2 * width, 1) + linear(width, patch**2 * outputs, tokens)


def embedding(width: int, tokens: float, patch: int, channels: int) -> Cost:
    return linear(patch**2 * channels, width, tokens)


def positions(width: int, tokens: int, learned: bool) -> Cost:
    return Cost(tokens * width) if learned else Cost(frozen=tokens * width)


def transformer(shape: TransformerShape, ratio: Ratio | None) -> Cost:
    """Windows that a RefineNet skips, and cells that it masks, are what `ratio` says."""
    width = shape.width
    context, shares = condition(width, shape.classes), [1.0]
    if isinstance(shape, GrainShape) and shape.any_ratio:  # an embedding a share
        context += condition(width, 0) * (shape.grains - 1)
    if isinstance(shape, ContentShape):
        context += Cost(shape.grains * width)
        shares += at_least(finest(shape.grains) if ratio is None else ratio)
    total = context
    for net, share in zip(shape.nets, shares, strict=False):
        tokens = net.tokens * share
        layer = block(shape, tokens, net.seen) + Cost(net.matrix)
        total += (
            embedding(width, tokens, net.patch, net.inputs)
            + positions(width, net.tokens, net.learned)
            + layer * net.depth
            + head(width, tokens, net.patch, net.outputs) * net.heads
            + (context if net.conditioned else Cost())
        )
    return total


# The DVAE: see d2it/models/dvae.py. `side` is the resolution that a layer works at.


def conv(inputs: int, outputs: int, side: int, kernel: int = 3) -> Cost:
    weights = kernel**2 * inputs * outputs
    return Cost(weights + outputs, macs=weights * side**2)


def norm(channels: int) -> Cost:
    return Cost(2 * channels)


def res_block(inputs: int, outputs: int, side: int) -> Cost:
    shortcut = conv(inputs, outputs, side, kernel=1) if inputs != outputs else Cost()
    convs = conv(inputs, outputs, side) + conv(outputs, outputs, side)
    return norm(inputs) + norm(outputs) + convs + shortcut


def pixel_attention(channels: int, side: int) -> Cost:
    tokens = side**2
    scores = Cost(macs=2 * tokens**2 * channels)
    return norm(channels) + linear(channels, 4 * channels, tokens) + scores


def middle(channels: int, side: int) -> Cost:
    return res_block(channels, channels, side) * 2 + pixel_attention(channels, side)


def stage(one: Stage) -> Cost:
    attention = pixel_attention(one.width, one.side) * one.blocks if one.attends else Cost()
    return (
        res_block(one.inputs, one.width, one.side)
        + res_block(one.width, one.width, one.side) * (one.blocks - 1)
        + attention
    )


def encoder(shape: DvaeShape) -> Cost:
    """With a head per factor; MACs of one image."""
    first, *rest = shape.down
    total = conv(3, shape.channels, shape.size) + stage(first)
    for one in rest:
        total += conv(one.inputs, one.inputs, one.side) + stage(one)
    moments = 2 * shape.latent_channels
    for depth in shape.depths:
        width, side = shape.widths[depth], shape.size >> depth
        out = conv(width, moments, side) + conv(moments, moments, side, kernel=1)
        total += middle(width, side) + norm(width) + out
    return total


def decoder(shape: DvaeShape) -> Cost:
    """From the grid of the finest factor to pixels."""
    first, *rest = shape.up
    width, side, channels = first.width, first.side, shape.latent_channels
    total = conv(channels, channels, side, kernel=1) + conv(channels, width, side)
    total += middle(width, side) + stage(first)
    for one in rest:
        total += conv(one.inputs, one.inputs, one.side) + stage(one)
    last = shape.up[-1].width
    return total + norm(last) + conv(last, 3, shape.size)


# What the DVAE is trained with: see d2it/models/discriminator.py and d2it/training/dvae_loss.py.


def discriminator(channels: int, layers: int, norm_groups: int, size: int) -> list[Cost]:
    """PatchGAN, a cost per convolution: `layers` halvings, then two that only narrow."""
    widths = [3, *(channels * min(2**i, 8) for i in range(layers + 1)), 1]
    costs = []
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        size = (size + 2 - 4) // (2 if i < layers else 1) + 1
        normed = 0 < i <= layers  # instead of a bias; the first and the last have a bias
        weights = conv(inputs, outputs, size, kernel=4)
        costs.append(weights + (norm(outputs) + Cost(-outputs) if normed else Cost()))
    return costs


def lpips(backbone: str, size: int) -> tuple[float, float]:
    """MACs of the features of one image, and of comparing those of two."""
    network = BACKBONES[backbone]
    features = compared = 0.0
    for i, (inputs, outputs, kernel, stride, padding) in enumerate(network.convolutions):
        if i in network.pooled:
            window, step = network.pooled[i]
            size = (size - window) // step + 1
        size = (size + 2 * padding - kernel) // stride + 1
        features += conv(inputs, outputs, size, kernel).macs
        compared += outputs * size**2 if i in network.read else 0
    return features, compared


def dvae_step(
    architecture: dict[str, Any], critic: dict[str, Any], backbone: str, playing: bool
) -> float:
    """MACs of training on one image, forward and backward; `playing`: with the discriminator.

    A layer's backward pass costs its forward pass twice, for its weights and for its input; frozen
    layers have no gradient of weights, first layers none of the image.
    """
    size, channels = architecture["size"], architecture["channels"]
    first = conv(3, channels, size).macs
    features, compared = lpips(backbone, size)
    total = 3 * cost("dvae", architecture).macs - first  # the generator
    total += 3 * features + 2 * compared  # of the photograph; of its copy, there and back
    if playing:
        layers = discriminator(**critic, size=size)
        whole = sum(layer.macs for layer in layers)
        total += 2 * whole  # frozen, for the generator
        total += 2 * (3 * whole - layers[0].macs)  # its own turn: photograph and copy
        total += 2 * conv(channels * architecture["multipliers"][0], 3, size).macs
        # twice the gradient of the last layer, for the adaptive weight
    return total
