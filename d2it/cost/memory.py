"""GB that training takes of a GPU, in closed form, from a network's constructor arguments.

What grows with the batch is what autograd keeps for the backward pass, counted operation by
operation as d2it/cost/macs.py counts work; parameters are held six times. No torch: `d2it plan`
asks for 34 runs at once, where tracing would cost it seconds and a second way through the code.
tests/test_memory.py holds these sums against traced steps.

Per image, in bytes. FULL is fp32; `half` is what matrix products and convolutions read: as much,
or under autocast a copy in bf16. What is kept, by operation: a linear layer or convolution its
input; GELU, SiLU and norms their input; a product both factors; attention q, k, v and its output
(flash and memory-efficient kernels keep no scores); a sum nothing. Vectors of an image, statistics
of norms, and the latents' own few channels are left out. All windows count, skipped ones too:
which are skipped changes with the maps of a batch.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from d2it.config.run import Run
from d2it.config.schema import Training
from d2it.cost.macs import discriminator, parameters
from d2it.errors import UserError
from d2it.models.architecture import architecture, discriminator_shape
from d2it.models.lpips_layers import BACKBONES
from d2it.models.shapes import SHAPES, DvaeShape, Stage, TransformerShape

FULL, BF16, INDEX = 4, 2, 8  # bytes of an fp32, a bf16 and an int64 number
# Assumed, not measured: CUDA's context, buffers of NCCL and cuBLAS, workspaces of cuDNN.
RUNTIME = 1.5e9
LEAST = 0.9  # of the count: what a step is sure to take
GAPS = 1.05  # of the count: assumed, not measured, since tensors of a step leave gaps between them


@dataclass(frozen=True)
class Kept:
    """Bytes of one image's forward pass."""

    kept: float = 0.0  # until the backward pass has used them
    again: float = 0.0  # of the largest part that checkpointing computes again
    widest: float = 0.0  # of the largest gradient of an activation


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the worst moment of a step."""

    states: float  # parameters, gradients and their buckets, moments, averages
    casts: float  # parameters in bf16, made anew in each forward pass
    activations: float  # of a micro-batch, kept for the backward pass
    temporary: float  # beside them: losses, what is computed again, gradients of activations

    @property
    def total(self) -> float:
        return self.states + self.casts + self.activations + self.temporary + RUNTIME

    @property
    def gigabytes(self) -> float:
        return round(self.total / 1e9, 1)

    @property
    def wanted(self) -> str:
        return f"{self.gigabytes} GB of a GPU's memory and {GAPS - 1:.0%} for gaps between tensors"


@dataclass(frozen=True)
class Need:
    """What a run asks of each of its GPUs, and what is left of it with checkpointing."""

    run: str
    kind: str
    memory: Memory
    checkpointed: Memory

    def cure(self, gigabytes: float = math.inf) -> str:
        """What makes the run fit a GPU of so much memory, and is no part of its recipe."""
        if self.checkpointed is self.memory or self.checkpointed.gigabytes > gigabytes:
            return "use a GPU with more memory"
        return (
            f"set training.{self.kind}.checkpointing=true, which needs "
            f"{self.checkpointed.gigabytes} GB, changes no number and takes about 1.3 times as long"
        )


def need_of(run: Run) -> Need:
    config, kind, shape, training = run.config, run.kind, architecture(run), run.training
    critic, backbone = 0, None
    if kind == "dvae":
        layers = discriminator(**discriminator_shape(config), size=shape["size"])
        critic, backbone = sum(layer.trainable for layer in layers), config.dvae_loss.perceptual
    now = training_memory(kind, shape, training, critic, backbone)
    less = replace(training, checkpointing=True)
    spare = now if less == training else training_memory(kind, shape, less, critic, backbone)
    return Need(run.name, kind, now, spare)


def shortage(need: Need, gpu: str, total: int, free: int) -> str | None:
    """Why a run will not fit a GPU with so many bytes, if it will not: said before it begins.

    Refused (UserError) if even LEAST of the count is more than there is.
    """
    wanted = f"{need.run} needs {need.memory.wanted}, and {gpu} has"
    for there, sentence in (
        (total, f"{wanted} {total / 1e9:.1f}: {need.cure(total / 1e9)}."),
        (
            free,
            f"{wanted} {free / 1e9:.1f} free of {total / 1e9:.1f}: see with nvidia-smi what else "
            "computes there, or name another GPU in CUDA_VISIBLE_DEVICES.",
        ),
    ):
        if there < LEAST * need.memory.total:
            raise UserError(sentence)
        if there < GAPS * need.memory.total:
            return sentence
    return None


def training_memory(
    kind: str,
    architecture: dict[str, Any],
    training: Training,
    critic: int = 0,
    backbone: str | None = None,
) -> Memory:
    """Of one process that trains this network.

    A step computes batch / shards images at a time, however many processes share the shards.
    critic: parameters of the discriminator; backbone: of LPIPS.
    """
    count, images = parameters(kind, architecture), training.batch // training.shards
    bf16 = training.precision == "bf16"
    found = kept(kind, architecture, BF16 if bf16 else FULL, training.checkpointing)
    beside = 2 * found.widest + found.again
    if backbone is not None:
        beside = max(beside, perceptual(backbone, architecture["size"]))
    fixed = count["total"] - count["trainable"]
    averages = (training.ema_half_life > 0) + 2 * (training.snapshot_images > 0)
    # parameters, gradients, AdamW's two moments, and DDP's buckets of gradients, which one process
    # alone does without
    states = 5 * (count["trainable"] + critic) + averages * count["trainable"]
    return Memory(
        states=FULL * (states + (1 + averages) * fixed),
        casts=BF16 * count["trainable"] if bf16 else 0,
        activations=images * found.kept,
        temporary=images * beside,
    )


def kept(kind: str, architecture: dict[str, Any], half: int, checkpointing: bool) -> Kept:
    """What the forward pass of one image keeps."""
    shape = SHAPES[kind](**architecture)
    of_kind = dvae if isinstance(shape, DvaeShape) else transformer
    return of_kind(shape, half, checkpointing)


# Transformers: h width, T tokens. See d2it/models/blocks.py.


def block(shape: TransformerShape, tokens: int, half: int) -> float:
    """16 h T in fp32: both norms' inputs and outputs. Halves: what the four linear layers read
    (h, h, h, r h), q, k and v (3 h), GELU's input (r h), and what both gates multiply (2 h).
    """
    width = shape.width
    # of q and k
    normed = width * (2 * half + (2 * FULL if half < FULL else 0)) if shape.qk_norm else 0
    return tokens * (16 * width + half * (8 + 2 * shape.mlp_ratio) * width + normed)


def head(width: int, tokens: int, half: int, heads: int) -> float:
    """The norm's input, once; of each head the norm's output and what its linear layer reads."""
    return tokens * width * (FULL + heads * (FULL + half))


def transformer(shape: TransformerShape, half: int, checkpointing: bool) -> Kept:
    rest, stream, blocks = 0.0, list[float](), list[float]()
    for net in shape.nets:
        layer = block(shape, net.tokens, half)
        layer += half * net.tokens * net.seen * net.masks  # what is added to the scores
        stream += [FULL * shape.width * net.tokens] * net.depth  # a block's input
        blocks += [layer] * net.depth
        rest += head(shape.width, net.tokens, half, net.heads)
    widest = max(stream, default=0)
    if checkpointing:
        return Kept(sum(stream) + rest, max(blocks, default=0), widest)
    return Kept(sum(blocks) + rest, widest=widest)


# The DVAE: see d2it/models/dvae.py. `side` is the resolution that a layer works at.


def norm_silu_conv(channels: int, side: int, half: int) -> float:
    return channels * side**2 * (2 * FULL + half)


def res_block(inputs: int, outputs: int, side: int, half: int) -> float:
    """A shortcut that changes the width reads the first norm's input, as a copy if in bf16."""
    copy = half if inputs != outputs and half < FULL else 0
    both = norm_silu_conv(inputs, side, half) + norm_silu_conv(outputs, side, half)
    return both + copy * inputs * side**2


def attention(channels: int, side: int, half: int) -> float:
    """Its q, k and v have no heads, which only plain attention takes: that keeps scaled copies of
    q and k, and the scores.
    """
    tokens = side**2
    return channels * tokens * (FULL + 7 * half) + half * tokens**2


def middle(channels: int, side: int, half: int) -> float:
    return 2 * res_block(channels, channels, side, half) + attention(channels, side, half)


def stage(one: Stage, half: int) -> float:
    total = res_block(one.inputs, one.width, one.side, half)
    total += (one.blocks - 1) * res_block(one.width, one.width, one.side, half)
    return total + (one.blocks * attention(one.width, one.side, half) if one.attends else 0)


def dvae(shape: DvaeShape, half: int, checkpointing: bool) -> Kept:
    """Encoder with its heads, and decoder. With checkpointing a stage keeps its input alone."""
    stages = [*shape.down, *shape.up]
    read = [one.inputs * one.side**2 * half for one in stages]
    kept = [stage(one, half) for one in stages]
    # padded for a convolution that halves, enlarged for one that follows doubling
    total: float = 3 * shape.size**2 * half
    total += sum(one.inputs * (2 * one.side + 1) ** 2 * half for one in shape.down[1:])
    total += sum(one.inputs * one.side**2 * half for one in shape.up[1:])
    for depth in shape.depths:
        width, side = shape.widths[depth], shape.size >> depth
        total += middle(width, side, half) + norm_silu_conv(width, side, half)
    total += middle(shape.up[0].width, shape.up[0].side, half)
    last = norm_silu_conv(shape.up[-1].width, shape.size, half)
    widest = FULL * shape.up[-1].width * shape.size**2
    if not checkpointing:
        return Kept(total + sum(kept) + last, widest=widest)
    again = max(all_of_it - its_input for all_of_it, its_input in zip(kept, read, strict=True))
    return Kept(total + sum(read) + last, again - last, widest)


def perceptual(backbone: str, size: int) -> float:
    """LPIPS of a photograph's copy, in fp32: each layer's ReLU, what is pooled and from where, and,
    where features are compared, both of unit length, their difference and its square.
    """
    network, total = BACKBONES[backbone], 0.0
    for i, (inputs, outputs, kernel, stride, padding) in enumerate(network.convolutions):
        if i in network.pooled:
            window, step = network.pooled[i]
            size = (size - window) // step + 1
            total += inputs * size**2 * (FULL + INDEX)
        size = (size + 2 * padding - kernel) // stride + 1
        total += outputs * size**2 * FULL * (5 if i in network.read else 1)
    return total
