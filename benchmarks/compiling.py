"""Modes of torch.compile, for a sampling step and a training pass of D²iT.

    python -m benchmarks.compiling [--device cuda]

Each block by itself is what a GPU uses; on a CPU nothing is compiled. "Whole" is the whole network.
CUDA graphs (reduce-overhead) exist on a GPU alone. All windows are computed, as a graph wants
shapes that stay. The first call compiles; then candidates take turns. Differences are of outputs,
relative to the largest.
"""

import copy
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.common import arguments, interleaved, timed, use_all_cores, write
from benchmarks.sampling import maps_of
from benchmarks.training import CHANNELS, CLASSES, SIZES, shapes
from benchmarks.variants import difference, randomised
from d2it.machine.device import arithmetic, choose_device, compile_blocks
from d2it.models.content_transformer import ContentTransformer

MEASURED = {"cpu": ("demo",), "cuda": tuple(SIZES["cuda"])}  # a CPU takes minutes to compile B once
Pass = Literal["sampling step", "training pass"]


def ways(device: str) -> dict[str, Callable[[nn.Module], Any]]:
    """How a network is compiled, in place."""
    modes = ["default", "max-autotune-no-cudagraphs"]
    modes += ["reduce-overhead"] if device == "cuda" else []
    whole: dict[str, Callable[[nn.Module], Any]] = {
        f"whole, {mode}": lambda network, mode=mode: network.compile(mode=mode) for mode in modes
    }
    return {"not compiled": lambda network: None, "each block": compile_blocks} | whole


def caller(
    network: Callable[..., Tensor], what: Pass, inputs: list[Tensor]
) -> Callable[[], Tensor]:
    device = inputs[0].device.type

    def once() -> Tensor:
        with arithmetic(device, "bf16" if device == "cuda" else "fp32"):
            return network(*inputs).float()

    def sampling() -> Tensor:
        with torch.inference_mode():
            return once().clone()  # a graph's output is overwritten by its next call

    def training() -> Tensor:
        found = once()
        found.square().mean().backward()
        return found.detach().clone()

    return sampling if what == "sampling step" else training


def measure(device: str, size: str, repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    side, *_, n = SIZES[device][size]
    _, content = shapes(device, size)
    x, t = torch.randn(n, CHANNELS, side, side), torch.full((n,), 500)
    network = randomised(ContentTransformer(**content)).to(device)
    inputs = [one.to(device) for one in (x, t, torch.arange(n) % CLASSES, maps_of(n, side // 2))]
    rows = of_pass(network, "sampling step", inputs, repeats)
    return [
        {"size": size} | row for row in rows + of_pass(network, "training pass", inputs, repeats)
    ]


def of_pass(
    network: nn.Module, what: Pass, inputs: list[Tensor], repeats: int
) -> list[dict[str, Any]]:
    calls, rows = dict[str, Callable[[], Tensor]](), list[dict[str, Any]]()
    device, expected = inputs[0].device.type, caller(network, what, inputs)()
    for how, compile_it in ways(device).items():
        other = copy.deepcopy(network)
        compile_it(other)
        calls[how] = caller(other, what, inputs)
        began = time.perf_counter()
        found = calls[how]()
        first = time.perf_counter() - began
        row = {"what": what, "compiled": how, "first call, s": round(first, 1)}
        rows.append(row | {"difference": difference(found, expected)})
    rounds = interleaved(calls, repeats, device)
    for row, spent in zip(rows, rounds.values(), strict=True):
        row |= timed(spent)
    for row in rows:
        row["over not compiled"] = round(rows[0]["seconds"] / row["seconds"], 3)
    return rows


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    use_all_cores()
    choose_device()
    rows = []
    with tempfile.TemporaryDirectory() as cache:  # or a first call would find what another left
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for size in MEASURED[given.device]:
            rows += measure(given.device, size, given.repeats)
    write("compiling", given.device, {"repeats": given.repeats}, rows)


if __name__ == "__main__":
    main()
