"""Other ways to compute the same, each beside the one that is in use.

    python -m benchmarks.variants

A gain is the seconds of what is in use over those of the other way: above 1, the other is faster.
A way that changes bits becomes a setting at most: `training.precision` and `sampling.precision` are
such (fp32 is in use here; bf16 is tried on a CPU that multiplies in it). Channels-last DVAEs and
compiled blocks on a CPU are no settings: every result would have to be made anew for their gain.
Skipped windows are a setting of training, and what sampling does; they change no bit. Their shapes
follow the data, so compiling them was not tried. "Fine codes alone" is another network, not another
way to compute ours: fine codes see no coarse ones, so that windows which hold both cost less;
whether it draws as well was not tried. Maps are of photographs, half of whose regions are fine.
Attention in windows is two layers of twelve, and modulation takes microseconds of each: their gains
are about a hundredth of a step. Differences are of outputs, relative to the largest; a sampling
step is a forward pass.

FlexAttention has no backward pass on a CPU, and is tried in sampling alone; what it generates at
the size B does not compile. torch.compile is in its default mode here; its other modes have a table
of their own, where CUDA graphs wait for a GPU.
"""

import copy
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.calibration import SIDE, photographs
from benchmarks.common import arguments, interleaved, kept, write
from benchmarks.training import CHANNELS, SIZES, WINDOW, shapes
from d2it.config import load
from d2it.config.run import run_of
from d2it.config.schema import Precision
from d2it.diffusion import guided
from d2it.grains.entropy import entropy_map
from d2it.machine.device import arithmetic, compile_blocks, multiplies_bf16
from d2it.models import blocks
from d2it.models.architecture import architecture
from d2it.models.blocks import unpatchify
from d2it.models.content_transformer import (
    ContentTransformer,
    RefineNet,
    Windows,
    from_windows,
    to_windows,
)
from d2it.models.dit import DiT
from d2it.models.dvae import Dvae

SCALES = {"demo": "demo", "B": "paper"}
Pair = tuple[str, str, Callable[[], Tensor], Callable[[], Tensor]]  # in use, other way


def pairs(size: str) -> Iterator[Pair]:
    torch.manual_seed(0)
    side, width, _, heads, _, n = SIZES["cpu"][size]
    dit, content = shapes("cpu", size)
    network = randomised(DiT(**dit)).eval()
    x, t, y = torch.randn(n, CHANNELS, side, side), torch.full((n,), 500), torch.arange(n)
    yield from of_forward(network, x, t, y)
    yield from of_windows(content, x, t, y)
    yield from of_attention(n * (side // WINDOW) ** 2, heads, width // heads)
    yield of_modulation(n, (side // 2) ** 2, width)
    yield from of_pixels(SCALES[size], side)


def of_forward(network: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Iterator[Pair]:
    @torch.inference_mode()
    def plain() -> Tensor:
        return network(x, t, y)

    @torch.no_grad()
    def no_grad() -> Tensor:
        return network(x, t, y)

    @torch.inference_mode()
    def bf16() -> Tensor:
        with arithmetic("cpu", "bf16"):
            return network(x, t, y).float()

    yield "sampling step: inference_mode", "no_grad", plain, no_grad
    if multiplies_bf16():
        yield "sampling step: fp32", "bf16 autocast (sampling.precision)", plain, bf16
    faster = copy.deepcopy(network)
    compile_blocks(faster)

    @torch.inference_mode()
    def compiled() -> Tensor:
        return faster(x, t, y)

    yield "sampling step: eager", "torch.compile of each block", plain, compiled
    together = guided(network, y, guidance=1.5)

    @torch.inference_mode()
    def one_batch() -> Tensor:
        return together(x, t)

    @torch.inference_mode()
    def two_batches() -> Tensor:
        given, null = network(x, t, y), network(x, t, torch.full_like(y, network.classes))
        return null + 1.5 * (given - null)

    yield "guided step: both branches in a batch", "two batches", one_batch, two_batches


class FineAlone(RefineNet):
    """Another visibility: fine codes see fine ones alone, windows with equally many at a time."""

    def forward(
        self,
        noise: Tensor,
        z: Tensor,
        c: Tensor,
        grains: nn.Embedding,
        windows: Windows,
        checkpointing: bool,
    ) -> Tensor:
        cells = windows.cells
        x = self.embed(noise, z, grains, cells)
        fine = to_windows(cells[..., None], self.window)[..., 0] >= self.grain  # (L, window^2)
        found = x.new_zeros(*x.shape[:2], self.head.linear.out_features)
        per_image = (self.side // self.window) ** 2
        for count in fine.sum(1).unique().tolist():
            chosen = (fine.sum(1) == count).nonzero()[:, 0]
            places = fine[chosen].nonzero()[:, 1].view(len(chosen), count)
            which = chosen[:, None], places
            images, refined = chosen // per_image, x[which]  # (windows, count, width)
            for block, bias in zip(self.blocks, self.biases, strict=True):
                (scores,) = bias(chosen % per_image)  # (heads, window^2, window^2)
                scores = scores[:, places[:, :, None], places[:, None]].transpose(0, 1)
                refined = block(refined, c, scores, images)
            found = found.index_put(which, self.head(refined, c, images))
        return unpatchify(from_windows(found, self.side, self.window).flatten(1, 2), self.patch)


def photographed_maps(n: int, side: int) -> Tensor:
    """(n, h, w) of photographs, half of the regions of each fine."""
    entropy = entropy_map(photographs(n), SIDE // side)
    return (entropy > entropy.flatten(1).median(1).values[:, None, None]).long()


def of_windows(content: dict[str, Any], x: Tensor, t: Tensor, y: Tensor) -> Iterator[Pair]:
    """With gradients: that is where `skip_windows` is a choice."""
    maps = photographed_maps(len(x), x.shape[-1] // 2)
    dense = randomised(ContentTransformer(**content))
    packed = ContentTransformer(**content, skip_windows=True)
    packed.load_state_dict(dense.state_dict())
    alone = copy.deepcopy(packed)
    for net in alone.refine:
        net.__class__ = FineAlone

    compiled = copy.deepcopy(dense)
    compile_blocks(compiled)

    def step(network: nn.Module, precision: Precision = "fp32") -> Tensor:
        network.zero_grad()
        with arithmetic("cpu", precision):
            noise: Tensor = network(x, t, y, maps).float()
        noise.square().mean().backward()
        return noise.detach()

    if multiplies_bf16():
        yield (
            "training pass: fp32",
            "bf16 autocast (training.precision)",
            lambda: step(dense),
            lambda: step(dense, "bf16"),
        )
    yield (
        "training pass: eager",
        "torch.compile of each block",
        lambda: step(dense),
        lambda: step(compiled),
    )
    yield (
        "training pass: all windows",
        "windows with fine regions, packed (skip_windows)",
        lambda: step(dense),
        lambda: step(packed),
    )
    yield (
        "training pass: windows with fine regions, packed",
        "fine codes alone, coarse ones unseen",
        lambda: step(packed),
        lambda: step(alone),
    )


def of_attention(windows: int, heads: int, width: int) -> Iterator[Pair]:
    shape = (windows, heads, WINDOW**2, width)
    bias = torch.randn(1, heads, WINDOW**2, WINDOW**2, requires_grad=True)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))

    def fused() -> Tensor:
        mask = bias.expand(windows, heads, WINDOW**2, WINDOW**2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def explicit() -> Tensor:
        scores = q @ k.transpose(-1, -2) / width**0.5 + bias
        return scores.softmax(-1) @ v

    def backward(attend: Callable[[], Tensor]) -> Tensor:
        out = attend()
        out.square().mean().backward()
        return out.detach()

    def add_bias(score: Tensor, image: Tensor, head: Tensor, to: Tensor, of: Tensor) -> Tensor:
        return score + bias[0, head, to, of]

    flexible = torch.compile(flex_attention)
    name = "window attention in {}: SDPA with the bias as mask".format
    yield name("training"), "products, softmax", lambda: backward(fused), lambda: backward(explicit)
    for given in (q, k, v, bias):
        given.requires_grad_(False)
    yield name("sampling"), "products, softmax", fused, explicit
    yield (
        name("sampling"),
        "FlexAttention with a score_mod, compiled",
        fused,
        lambda: flexible(q, k, v, score_mod=add_bias),
    )


def of_modulation(n: int, tokens: int, width: int) -> Pair:
    x, shift, scale = torch.randn(n, tokens, width), torch.randn(n, width), torch.randn(n, width)

    def fused() -> Tensor:
        return torch.addcmul(shift[:, None], x, 1 + scale[:, None])

    return "modulate: multiply, add", "addcmul", lambda: blocks.modulate(x, shift, scale), fused


def of_pixels(scale: str, side: int) -> Iterator[Pair]:
    """The scale's DVAE on images of half the side, which costs a quarter."""
    shape = architecture(run_of(load(overrides=[f"scale={scale}"]), "dvae"))
    plain = Dvae(**shape).eval()
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    z = torch.randn(1, shape["latent_channels"], side // 2, side // 2)
    image = torch.randn(1, 3, shape["size"] // 2, shape["size"] // 2)

    @torch.inference_mode()
    def encode(dvae: Dvae, x: Tensor) -> Tensor:
        return dvae.encoder(x)[-1][0]

    @torch.inference_mode()
    def decode(dvae: Dvae, x: Tensor) -> Tensor:
        return dvae.decode(x)

    for what, run, x in (("encode", encode, image), ("decode", decode, z)):
        last = x.to(memory_format=torch.channels_last)
        yield (
            f"DVAE, {what}: channels first",
            "channels last",
            lambda run=run, x=x: run(plain, x),
            lambda run=run, last=last: run(other, last),
        )


def randomised(network: nn.Module) -> Any:
    """No parameter zero, as DiT begins: or nothing could differ."""
    for parameter in network.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest, in two digits."""
    return float(f"{float((found - expected).abs().max() / expected.abs().max()):.1e}")


def measure(size: str, repeats: int) -> Iterator[dict[str, Any]]:
    for used, other, plain, variant in pairs(size):
        row = {"size": size, "in use": used, "other way": other}
        expected = plain()
        try:
            found = variant()
        except RuntimeError as error:  # torch cannot compile it
            yield row | {"gain": f"none: {type(error).__name__}"}
            continue
        rounds = interleaved({"used": plain, "other": variant}, repeats)
        used, other = (statistics.median(spent) for spent in rounds.values())
        yield row | {
            "seconds in use": round(used, 6),
            "gain": round(used / other, 3),
            "rounds": {name: kept(spent) for name, spent in rounds.items()},
            "difference": difference(found, expected),
        }


def main() -> None:
    given = arguments(__doc__.splitlines()[0], repeats=3, gpu=False)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = [row for size in SIZES["cpu"] for row in measure(size, given.repeats)]
    write("variants", "cpu", {"repeats": given.repeats, "window": WINDOW}, rows)


if __name__ == "__main__":
    main()
