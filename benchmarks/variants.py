"""Settings that change what a step takes, each beside the default.

    python -m benchmarks.variants

A gain is the seconds of what is in use over those of the other way: above 1, the other is faster.
bf16 is tried on a CPU that multiplies in it. Skipped windows are a setting of training, and what
sampling does. Maps are of photographs, half of whose regions are fine. Differences are of outputs,
relative to the largest; a sampling step is a forward pass.

Tried and not taken; `git log docs/benchmarks.md` has their table. Channels-last DVAEs and compiled
blocks on a CPU: every result would have to be made anew for their gain. Products and softmax or
FlexAttention in windows, and modulation by addcmul: about a hundredth of a step. no_grad, and
guidance in two batches: within the spread, or slower. Fine codes that see no coarse ones: another
network.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calibration import SIDE, photographs
from benchmarks.common import arguments, interleaved, kept, write
from benchmarks.training import CHANNELS, SIZES, WINDOW, shapes
from d2it.config.schema import Precision
from d2it.grains.entropy import entropy_map
from d2it.machine.device import arithmetic, multiplies_bf16
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT

Pair = tuple[str, str, Callable[[], Tensor], Callable[[], Tensor]]  # in use, other way


def pairs(size: str) -> Iterator[Pair]:
    torch.manual_seed(0)
    side, *_, n = SIZES["cpu"][size]
    shape, content = shapes("cpu", size)
    dit = randomised(DiT(**shape)).eval()
    dense = randomised(ContentTransformer(**content))
    packed = ContentTransformer(**content, skip_windows=True)
    packed.load_state_dict(dense.state_dict())
    x, t, y = torch.randn(n, CHANNELS, side, side), torch.full((n,), 500), torch.arange(n)
    entropy = entropy_map(photographs(n), 2 * SIDE // side)
    maps = (entropy > entropy.flatten(1).median(1).values[:, None, None]).long()

    @torch.inference_mode()
    def draw(precision: Precision) -> Tensor:
        with arithmetic("cpu", precision):
            return dit(x, t, y).float()

    def step(network: nn.Module, precision: Precision = "fp32") -> Tensor:
        network.zero_grad()
        with arithmetic("cpu", precision):
            noise: Tensor = network(x, t, y, maps).float()
        noise.square().mean().backward()
        return noise.detach()

    if multiplies_bf16():
        other = "bf16 autocast ({}.precision)".format
        drawn = lambda: draw("fp32"), lambda: draw("bf16")
        yield "sampling step: fp32", other("sampling"), *drawn
        learnt = lambda: step(dense), lambda: step(dense, "bf16")
        yield "training pass: fp32", other("training"), *learnt
    name = "windows with fine regions, packed (skip_windows)"
    yield "training pass: all windows", name, lambda: step(dense), lambda: step(packed)


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
        found, expected = variant(), plain()
        rounds = interleaved({"used": plain, "other": variant}, repeats)
        seconds, faster = (statistics.median(spent) for spent in rounds.values())
        yield {
            "size": size,
            "in use": used,
            "other way": other,
            "seconds in use": round(seconds, 6),
            "gain": round(seconds / faster, 3),
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
