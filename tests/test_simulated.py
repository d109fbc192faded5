"""Every stage on a device that is not the CPU: nothing is left behind there, and nothing waits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tests.simulated as simulated
from benchmarks.common import ROOT
from benchmarks.first_hour.checks import ON_GPU
from d2it.errors import UserError
from d2it.machine.device import choose_device
from tests.forked import Forked
from tests.simulated import DEVICE, Mixed

MARK = ".".join(("pytest", "mark", "gpu"))  # this file has none


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device=DEVICE)


def test_the_device_is_chosen_as_a_gpu_would_be():
    with simulated.chosen():
        assert choose_device() == DEVICE
    with simulated.chosen("cpu"):
        assert choose_device() == torch.device("cpu")
    with simulated.chosen("gpu"), pytest.raises(UserError, match="is gpu, which is no device"):
        choose_device()


@pytest.mark.parametrize(
    "mix",
    [
        lambda: there(3) + torch.ones(3),
        lambda: torch.stack([there(), torch.ones(())]),
        lambda: there(3)[torch.tensor([1])],
        lambda: torch.ones(3).add_(there(3)),
        lambda: torch.ones(()).add_(there()),
        lambda: torch.nn.Linear(3, 2)(there(1, 3)),
    ],
)
def test_a_tensor_of_the_cpu_among_its_own_is_an_error(mix: Callable[[], Tensor]):
    with pytest.raises(Mixed):
        mix()


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda: there(3).sum().item(), ["item"]),
        (lambda: bool(there() > 0), ["item"]),
        (lambda: there(3).cpu(), ["copy to the CPU"]),
        (lambda: torch.tensor([1.0], device=DEVICE), ["copy from pageable memory"]),
        (lambda: torch.ones(3).to(DEVICE, non_blocking=True), ["copy from pageable memory"]),
        (lambda: torch.ones(3).pin_memory().to(DEVICE), ["copy from pinned memory"]),
        (lambda: torch.ones(4).pin_memory().split(2)[1].to(DEVICE, non_blocking=True), []),
        (lambda: torch.ones(3).copy_(there(3), non_blocking=True), ["copy to the CPU"]),
        (lambda: torch.ones(3).pin_memory().copy_(there(3), non_blocking=True), []),
        (lambda: there(3)[there(3) > 0], ["indexing by a mask"]),
        (lambda: there(3).nonzero(), ["nonzero"]),
        (lambda: torch.arange(3, device=DEVICE).bincount(minlength=3), ["bincount"]),
        (lambda: torch.where(there(3) > 0, 2.0, there(3)) * torch.tensor(2.0), []),
        (lambda: there(3)[torch.arange(2, device=DEVICE)], []),
    ],
)
def test_each_wait_of_the_host_is_noted(act: Callable[[], object], what: list[str]):
    with simulated.waits() as found:
        act()
    assert [wait.what for wait in found] == what


def test_tests_of_a_gpu_have_torchs_own_pinned_memory():
    """In a process that simulates nothing; there are no others than those it collects."""
    done = Forked("tests.collected", *ON_GPU, cwd=ROOT).end()
    assert done.returncode == 0, done.stdout + done.stderr
    marked = [path for path in (ROOT / "tests").rglob("*.py") if MARK in path.read_text()]
    assert {path.parent for path in marked} == {ROOT / "tests/gpu"}
    assert all(f"tests/gpu/{path.name}::" in done.stdout for path in marked)


def test_it_computes_what_the_cpu_computes():
    torch.manual_seed(0)
    results = []
    network, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    for device in ("cpu", DEVICE):
        network.to(device).zero_grad()
        network(x.to(device)).square().mean().backward()
        results.append(network.weight.grad.cpu())
    assert torch.equal(*results)
