"""The same numbers on every device: on the CPU always, on a GPU with `make test-gpu`.

Needs torch, PyYAML and pytest alone. A GPU's numbers are compared with the CPU's; on the CPU the
same tests show that they can run.
"""

import copy
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2it.config.types import Precision
from d2it.grains import maps
from d2it.grains.entropy import entropy_map, grey_levels
from d2it.machine.device import arithmetic, compile_blocks
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT
from d2it.models.dvae import Dvae
from d2it.models.grain_transformer import GrainTransformer, one_hot

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPE = dict(width=32, heads=2, classes=3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


T, Y = torch.tensor([3, 870]), torch.tensor([1, 3])
MAP = (draw(2, 4, 4, seed=5) > 0).long()
CODES = [draw(2, 4, 4, 4), draw(2, 4, 8, 8)]


def build(kind: str) -> tuple[nn.Module, tuple]:
    """A network with random weights everywhere, and what it is called with, on the CPU."""
    latents = draw(2, 4, 8, 8)
    networks: dict[str, tuple[Callable[[], nn.Module], tuple]] = {
        "dit": (lambda: DiT(8, 4, 2, depth=2, **SHAPE), (latents, T, Y)),
        "content": (
            lambda: ContentTransformer(8, 4, 2, layers=(2, 1), window=4, **SHAPE),
            (latents, T, Y, MAP),
        ),
        "content, other switches": (
            lambda: ContentTransformer(
                8, 4, 2, layers=(2, 1), window=4, bias="global", heads_out=3, qk_norm=True,
                skip_windows=True, **SHAPE,
            ),
            (latents, T, Y, MAP),
        ),
        "grain": (
            lambda: GrainTransformer(4, 2, depth=2, **SHAPE),
            (one_hot(MAP, 2) + draw(2, 2, 4, 4), T, Y),
        ),
        "dvae": (
            lambda: Dvae([8, 4], 32, 4, 8, [1, 1, 2, 2], 1, [8], 4),
            (draw(2, 3, 32, 32).tanh(), MAP, CODES),
        ),
    }  # fmt: skip
    make, inputs = networks[kind]
    torch.manual_seed(0)
    network = make()
    for parameter in network.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network, inputs


def put(value, device: str):
    if isinstance(value, (list, tuple)):
        return type(value)(put(part, device) for part in value)
    return value.to(device)


def output(network: nn.Module, inputs: tuple) -> Tensor:
    out = network(*inputs)
    return out[0] if isinstance(out, tuple) else out


def apart(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, in those of what is expected."""
    difference = found.detach().cpu().double() - expected.detach().cpu().double()
    return (difference.norm() / expected.detach().norm().cpu()).item()


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


KINDS = ["dit", "content", "content, other switches", "grain", "dvae"]


@pytest.fixture(autouse=True)
def exact():
    """float32 is float32: no TF32."""
    torch.set_num_threads(1)
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward(kind, device):
    network, inputs = build(kind)
    there = copy.deepcopy(network).to(device)
    expected, found = output(network, inputs), output(there, put(inputs, device))
    assert apart(found, expected) < 1e-5
    for out in (expected, found):
        out.square().mean().backward()
    assert apart(gradients(there), gradients(network)) < 1e-4


def in_arithmetic(kind: str, device: str, precision: Precision) -> tuple[Tensor, Tensor, tuple]:
    """A network's output in this arithmetic and in fp32, and what it was given."""
    network, inputs = build(kind)
    network.to(device)
    inputs = put(inputs, device)
    with arithmetic(device, precision):
        found = output(network, inputs)
    return found, output(network, inputs), inputs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_close_to_float32(kind, device):
    """bf16 has 8 bits: an error of 2^-9 an operation, some percents after a few layers."""
    found, expected, inputs = in_arithmetic(kind, device, "bf16")
    assert 1e-4 < apart(found.float(), expected) < 0.05
    if kind.startswith("content"):  # autocast ends where codes must stay equal to the bit
        assert torch.equal(found, maps.copy_within(found, inputs[-1], 2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_tf32_is_closer_still(kind, device):
    """10 bits, and on a CPU all 23."""
    found, expected, _ = in_arithmetic(kind, device, "tf32")
    assert apart(found, expected) < (0.01 if device == "cuda" else 1e-9)


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cpu", "content"), *(pytest.param("cuda", k, marks=pytest.mark.gpu) for k in KINDS[:-1])],
)
def test_compiled_blocks_are_the_same(kind, device):
    network, inputs = build(kind)
    network.to(device)
    inputs = put(inputs, device)
    expected = output(network, inputs)
    expected.square().mean().backward()
    gradient = gradients(network)
    network.zero_grad()
    names = list(network.state_dict())
    # the CPU is never compiled for: there only the graphs are made that a GPU would compile
    compile_blocks(network, backend="inductor" if device == "cuda" else "eager")
    assert list(network.state_dict()) == names
    found = output(network, inputs)
    found.square().mean().backward()
    assert apart(found, expected) < 1e-5 and apart(gradients(network), gradient) < 1e-4


@pytest.mark.parametrize("bias", ["window", "global"])
def test_what_computes_a_batch_depends_on_none_before(bias):
    """Compiled blocks have one graph for any number of windows, and one for a single window: so
    images drawn in shares are the same bytes."""

    def graphs_of(numbers: list[int]) -> dict[int, list[str]]:
        """What each number of windows is computed by."""
        torch.compiler.reset()
        called: list[str] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable:
            given = [node.meta.get("example_value") for node in graph.graph.nodes]
            name = str([value.shape for value in given if isinstance(value, Tensor)])

            def call(*arguments: Any) -> Any:
                called.append(name)
                return graph.forward(*arguments)

            return call

        network = ContentTransformer(8, 4, 2, layers=(1, 2), window=4, bias=bias, **SHAPE)
        compile_blocks(network, backend=backend)
        found = {}
        for number in numbers:
            map = torch.zeros(2, 4, 4, dtype=torch.long)
            map[:, ::2, ::2] = torch.arange(8).view(2, 2, 2) < number  # within a window each
            called.clear()
            with torch.inference_mode():
                windows = network.live_windows(map, torch.device("cpu"))
                assert len(windows[0].live) == number
                network(draw(2, 4, 8, 8), T, Y, map, windows)
            found[number] = list(called)
        return found

    one, other = graphs_of([3, 1, 8, 2]), graphs_of([1, 2, 3, 8])
    assert one == other
    assert one[2] == one[3] == one[8] != one[1]


@pytest.mark.parametrize("device", DEVICES)
def test_grains(device):
    """Integers and float64 on any device: maps are the CPU's, entropies to the last bit or so."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 64, 64, 3), generator=generator, dtype=torch.uint8)
    images[:, :32] //= 32  # smooth above
    entropy = entropy_map(images, 16)
    assert torch.equal(grey_levels(images.to(device)).cpu(), grey_levels(images))
    there = entropy_map(images.to(device), 16)
    assert torch.allclose(there.cpu(), entropy, rtol=0, atol=1e-6)
    map = maps.grain_map(entropy, [2.5])
    assert 0 < maps.fine_share(map) < 1
    assert torch.equal(maps.grain_map(there, [2.5]).cpu(), map)
    codes, there_map = put(CODES, device), MAP.to(device)
    for ours, theirs in (
        (maps.route(codes, there_map), maps.route(CODES, MAP)),
        (maps.cell_weights(there_map, 2), maps.cell_weights(MAP, 2)),
        (
            maps.copy_within(codes[1], there_map, 2),
            maps.copy_within(CODES[1], MAP, 2),
        ),
        (
            maps.mean_within(codes[1], there_map, 2),
            maps.mean_within(CODES[1], MAP, 2),
        ),
    ):
        assert torch.equal(ours.cpu(), theirs)


PAGES = """
import resource
import torch
from d2it.machine.device import keep_freed_memory

keep_freed_memory()
faults = []
for _ in range(8):  # the first ones may begin where something small then stays
    torch.ones(2**25)  # 128 MiB, freed at once
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[7] - faults[5])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone returns them")
def test_freed_memory_serves_the_next_tensor():
    """The kernel clears no page anew: a tensor of 32,768 pages finds those of the one before."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
