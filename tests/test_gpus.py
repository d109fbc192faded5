"""Peaks of GPUs are found by the names that people and drivers use."""

import pytest

from d2it.errors import UserError
from d2it.gpus import GPUS, find_gpu, identify


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A800-SXM4-80GB", "a800"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA RTX A6000", "a6000"),
    ],
)
def test_drivers_names(device, name):
    assert identify(device) is GPUS[name]
    assert find_gpu(device) is find_gpu(name.upper()) is GPUS[name]


def test_an_unknown_gpu():
    assert identify("cpu") is None and identify("NVIDIA A8000") is None
    with pytest.raises(UserError, match=r"no GPU 'a8000' \(did you mean 'a800'\?\)"):
        find_gpu("a8000")


def test_halving_the_precision_at_least_doubles_the_speed_of_tensor_cores():
    for gpu in GPUS.values():
        assert gpu.bf16 >= 1.9 * gpu.tf32 and gpu.tf32 >= gpu.fp32
