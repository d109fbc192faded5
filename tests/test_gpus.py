"""Peaks of GPUs are found by the names that people and drivers use."""

from pathlib import Path

import pytest
import torch

from d2it.errors import UserError
from d2it.machine import device, gpus
from d2it.machine.gpus import GPUS, find_gpu, identify


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


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_compute_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence with torch's own reason, unless the user hides the GPU."""
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.find_accelerator() is None
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError, match=r"torch cannot use \(.+\): this torch wants .* CUDA 13.0"):
        device.choose_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.choose_device().type == "cpu"


def test_a_job_that_was_given_no_gpu_of_its_node_computes_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm shows it all of them and lets it open none; here they cannot be opened as folders."""
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for i in range(4):
        (tmp_path / f"nvidia{i}").mkdir()
    device._warn_of_closed_gpus.cache_clear()
    assert gpus.visible_gpus() == []
    assert [device.choose_device().type for _ in range(2)] == ["cpu", "cpu"]
    told = capsys.readouterr().err
    assert "ask Slurm for one (--gpus=1)" in told and told.count("\n") == 1
    (tmp_path / "nvidia2").rmdir()
    (tmp_path / "nvidia2").touch()  # the one that it was given: CUDA counts from 0
    assert gpus.visible_gpus() == ["0"]


@pytest.mark.parametrize(
    ("named", "sentence"),
    [("cuda:1", "unset it, and set CUDA_VISIBLE_DEVICES=1"), ("moon", "no device of")],
)
def test_a_device_that_no_stage_can_take(
    monkeypatch: pytest.MonkeyPatch, named: str, sentence: str
) -> None:
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", named)
    with pytest.raises(UserError, match=sentence):
        device.find_accelerator()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update",
            "040)",
        ),
        (
            "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors",
            "able",
        ),
        ("CUDA error: no kernel image is available for execution on the device\nmore", "device"),
    ],
)
def test_a_gpu_that_cannot_compute_is_told_of_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, told: str, said: str
) -> None:
    def ones(*_: object, **__: object) -> None:
        raise RuntimeError(told)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with pytest.raises(UserError) as error:
        device.check_gpu(torch.device("cuda", 3))
    assert "\n" not in str(error.value) and f"{said}): see with nvidia-smi" in str(error.value)
    assert str(error.value).startswith("GPU 7 of ")
    device.check_gpu(torch.device("cpu"))
