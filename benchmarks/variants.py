"""Ways to compute one network's steps: precision, skipped windows and compiled code.

    python -m benchmarks.variants [--device cuda]

D²iT in a sampling step (a forward pass) and in a training pass, as it is by default: in fp32 (on a
GPU in bf16), not compiled, with all windows. bf16 is tried on a CPU that multiplies in it. Skipped
windows are a setting of training, and what sampling does; maps are of photographs, half of whose
regions are fine. On a GPU each block by itself is what `compile` compiles; "whole" is the whole
network, reduce-overhead CUDA graphs. All take turns. A CPU computes in one thread, and seconds are
its own: what else the machine does counts little. Differences are of outputs, relative to the
largest.

Tried and not taken; `git log docs/benchmarks.md` has their table. Channels-last DVAEs and compiled
code on a CPU: every result would have to be made anew for their gain. Products and softmax or
FlexAttention in windows, and modulation by addcmul: about a hundredth of a step. no_grad, and
guidance in two batches: within the spread, or slower. Fine codes that see no coarse ones: another
network.
"""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calibration import SIDE, photographs
from benchmarks.common import arguments, interleaved, timed, write
from benchmarks.training import CHANNELS, CLASSES, SIZES, shapes
from d2it.config.types import Precision
from d2it.grains.entropy import entropy_map
from d2it.machine.device import arithmetic, choose_device, compile_blocks, multiplies_bf16
from d2it.models.content_transformer import ContentTransformer

PASSES = ("sampling step", "training pass")
DEFAULT = "default"
Way = tuple[str, nn.Module, Precision]


def ways(device: str, size: str) -> Iterator[Way]:
    _, content = shapes(device, size)
    usual: Precision = "bf16" if device == "cuda" else "fp32"
    network = randomised(ContentTransformer(**content)).to(device)
    yield DEFAULT, network, usual
    if device == "cpu" and multiplies_bf16():
        yield "bf16 autocast (precision)", network, "bf16"
    skipping = ContentTransformer(**content, skip_windows=True).to(device)
    skipping.load_state_dict(network.state_dict())
    yield "windows with fine regions alone (skip_windows)", skipping, usual
    if device == "cpu":  # where nothing is ever compiled
        return
    blocks = copy.deepcopy(network)
    compile_blocks(blocks)
    yield "each block compiled (compile)", blocks, usual
    for mode in ("default", "max-autotune-no-cudagraphs", "reduce-overhead"):
        whole = copy.deepcopy(network)
        whole.compile(mode=mode)
        yield f"whole, compiled: {mode}", whole, usual


def randomised(network: nn.Module) -> nn.Module:
    """No parameter zero, as DiT begins: or nothing could differ."""
    for parameter in network.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def photographed_maps(n: int, side: int) -> Tensor:
    """(n, h, w) of photographs, half of the regions of each fine."""
    entropy = entropy_map(photographs(n), SIDE // side)
    return (entropy > entropy.flatten(1).median(1).values[:, None, None]).long()


def caller(what: str, way: Way, inputs: list[Tensor]) -> Callable[[], Tensor]:
    _, network, precision = way

    def once() -> Tensor:
        with arithmetic(inputs[0].device, precision):
            found: Tensor = network(*inputs).float()
        return found

    def sampling() -> Tensor:
        with torch.inference_mode():
            return once().clone()  # a graph's output is overwritten by its next call

    def training() -> Tensor:
        network.zero_grad()
        found = once()
        found.square().mean().backward()
        return found.detach().clone()

    return sampling if what == PASSES[0] else training


def measure(device: str, size: str, what: str, repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    side, *_, n = SIZES[device][size]
    x, t, y = torch.randn(n, CHANNELS, side, side), torch.full((n,), 500), torch.arange(n) % CLASSES
    inputs = [one.to(device) for one in (x, t, y, photographed_maps(n, side // 2))]
    calls, rows, expected = dict[str, Callable[[], Tensor]](), list[dict[str, Any]](), Tensor()
    for way in ways(device, size):
        name = way[0]
        calls[name] = caller(what, way, inputs)
        found = calls[name]()
        expected = found if name == DEFAULT else expected
        row = {"size": size, "what": what, "way": name}
        rows.append(row | {"difference": difference(found, expected)})
    clock = time.process_time if device == "cpu" else time.perf_counter
    rounds = interleaved(calls, repeats, device, clock=clock)
    for row, spent in zip(rows, rounds.values(), strict=True):
        row |= timed(spent)
        row["gain"] = round(rows[0]["seconds"] / row["seconds"], 3)
    return rows


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest, in two digits."""
    return float(f"{float((found - expected).abs().max() / expected.abs().max()):.1e}")


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    choose_device()  # and one thread on a CPU
    rows = []
    for size in SIZES[given.device]:
        for what in PASSES:
            rows += measure(given.device, size, what, given.repeats)
    write("variants", given.device, {"repeats": given.repeats}, rows)


if __name__ == "__main__":
    main()
