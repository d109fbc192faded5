"""Closed forms of a GPU's memory are within 10 % of traced steps; what is said from them."""

import mmap
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from d2it import cli
from d2it.config import load
from d2it.config.run import run_of
from d2it.config.schema import Training
from d2it.cost.macs import parameters
from d2it.cost.memory import (
    BF16,
    FULL,
    RUNTIME,
    Need,
    kept,
    need_of,
    perceptual,
    shortage,
    training_memory,
)
from d2it.errors import UserError
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.machine.gpus import GPUS
from d2it.models.architecture import architecture
from d2it.models.dit import DiT
from d2it.runs.plan import Plan
from d2it.training import loop
from d2it.training.dvae import DvaeTask
from d2it.training.task import Learner
from d2it.training.trainer import Trainer
from tests.tiny_world import OVERRIDES, enter
from tests.traced_memory import (
    kept_by_forward,
    peak_of_drawing,
    peak_of_dvae,
    peak_of_network,
)

N = 32  # a micro-batch of the published scale
CONFIGS = {scale: load(overrides=[f"scale={scale}"]) for scale in ("smoke", "paper")}
EVERY_SWITCH = {"qk_norm": True, "bias": "global", "heads_out": 3, "share_condition": False}
NETWORKS: list[tuple[str, str, dict[str, Any]]] = [
    ("paper", "dvae", {}),
    ("paper", "grain", {}),
    ("paper", "d2it_xl_classes", {}),
    ("paper", "d2it_b", EVERY_SWITCH),
    ("paper", "d2it_b", {"grains": 3}),
    ("paper", "d2it_b", {"fine_only": True}),
    ("paper", "d2it_b_12_0", {}),
    ("paper", "dit_xl_classes", {}),
    ("smoke", "dvae", {}),
    ("smoke", "dvae_three", {}),
    ("smoke", "grain", {}),
    ("smoke", "d2it_b", EVERY_SWITCH),
    ("smoke", "d2it_b", {"fine_only": True}),
    ("smoke", "d2it_b_three", {}),
    ("smoke", "dit_b", {}),
]


def near(found: float, expected: float, scale: str) -> bool:
    """Tiny networks have more of what is left out: the vectors of an image, few channels."""
    return found == pytest.approx(expected, rel=0.05 if scale == "paper" else 0.1)


def shape_of(scale: str, run: str, switches: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    config = CONFIGS[scale]
    return run_of(config, run).kind, architecture(run_of(config, run)) | switches


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("scale", "run", "switches"), NETWORKS)
def test_what_is_kept_for_the_backward_pass(scale, run, switches, bf16, checkpointing):
    kind, shape = shape_of(scale, run, switches)
    traced = kept_by_forward(kind, shape, N, bf16, checkpointing)
    counted = N * kept(kind, shape, BF16 if bf16 else FULL, checkpointing).kept
    if bf16 and not checkpointing:  # the copies of the parameters are kept too
        counted += BF16 * parameters(kind, shape)["trainable"]
    assert near(counted, traced, scale)


def test_skipped_windows_count_since_a_batch_may_have_none():
    kind, shape = shape_of("smoke", "d2it_b", {"skip_windows": True})
    traced = kept_by_forward(kind, shape, 4, bf16=False, checkpointing=False, fake=False)
    assert near(4 * kept(kind, shape, FULL, False).kept, traced, "smoke")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("scale", "run"),
    [("paper", "d2it_xl_classes"), ("paper", "dit_b"), ("paper", "grain"), ("smoke", "d2it_b")],
)
def test_the_most_that_a_step_of_a_transformer_holds(scale, run, checkpointing):
    kind, shape = shape_of(scale, run, {})
    training = Training(2 * N, 2 * N, 1e-4, checkpointing=checkpointing)
    memory, count = training_memory(kind, shape, training), parameters(kind, shape)["trainable"]
    counted = 2 * FULL * count + memory.activations + memory.temporary  # weights and gradients
    assert near(counted, peak_of_network(kind, shape, N, checkpointing), scale)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_the_most_that_a_step_of_the_dvae_holds(scale, checkpointing):
    config = CONFIGS[scale]
    shape, backbone = architecture(run_of(config, "dvae")), config.dvae_loss.perceptual
    training = Training(2 * N, 2 * N, 1e-4, checkpointing=checkpointing)
    memory = training_memory("dvae", shape, training, backbone=backbone)
    count = parameters("dvae", shape)["trainable"]
    counted = 2 * FULL * count + memory.activations + memory.temporary
    assert near(counted, peak_of_dvae(config, shape, N, checkpointing), scale)


class Squares:
    """A task around one network."""

    def __init__(self, network: DiT, training: Training) -> None:
        self.learners = [Learner("dit", network, training, 1e-4)]

    def loss(
        self, learner: str, networks: dict[str, Any], batch: dict[str, Tensor], images_seen: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return networks[learner](batch["x"], batch["t"]).square().mean(), {}


def test_states_are_those_that_a_trainer_holds():
    shape = dict(side=8, channels=4, patch=2, width=64, depth=2, heads=2, classes=0)
    training = Training(8, 4, 1e-4, shards=1, ema_half_life=9.0, snapshot_images=4)
    network = DiT(**shape)
    plan = Plan("dit", "dit", Path(), training, 0, (), {}, {}, {})
    trainer = Trainer(plan, Squares(network, training), Accelerator(cpu=True))
    trainer.step([{"x": torch.ones(4, 4, 8, 8), "t": torch.arange(4)}], 0)
    held = [*network.parameters(), *(p.grad for p in network.parameters() if p.grad is not None)]
    held += [m for s in trainer.optimisers["dit"].state.values() for m in s.values()]
    held += trainer.ema.averages
    held += [average for averages in trainer.power.averages.values() for average in averages]
    size = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}.values())
    buckets = FULL * parameters("dit", shape)["trainable"]  # of several processes
    assert training_memory("dit", shape, training).states == pytest.approx(size + buckets, rel=1e-3)


def test_drawing_at_the_published_block_fits_every_gpu_of_the_table():
    config = CONFIGS["paper"]
    runs = {run: architecture(run_of(config, run)) for run in ("d2it_xl_classes", "grain", "dvae")}
    states = FULL * sum(parameters(run_of(config, r).kind, a)["total"] for r, a in runs.items())
    drawn = states + peak_of_drawing(runs["d2it_xl_classes"], runs["dvae"], config.sampling.block)
    assert drawn + RUNTIME < min(gpu.gigabytes for gpu in GPUS.values()) * 1e9


def test_a_micro_batch_is_what_counts():
    shape = architecture(run_of(CONFIGS["paper"], "dit_b"))
    whole = training_memory("dit", shape, Training(256, 256, 1e-4, shards=8))
    assert whole == training_memory("dit", shape, Training(256, 128, 1e-4, shards=4))
    half = training_memory("dit", shape, Training(256, 256, 1e-4, shards=16))
    assert whole.activations == 2 * half.activations and whole.states == half.states


def need(**changes: Any) -> Need:
    overrides = ["scale=paper", *(f"training.dvae.{k}={v}" for k, v in changes.items())]
    return need_of(run_of(load(overrides=overrides), "dvae"))


def test_the_published_dvae_wants_checkpointing_on_80_gb_and_no_recipe_knows():
    dense, spare = need(checkpointing="false"), need(checkpointing="true")
    assert 80 < dense.memory.gigabytes < 90 and spare.memory.gigabytes < 45
    assert dense.checkpointed == spare.memory == spare.checkpointed
    assert perceptual("vgg", 256) * N == pytest.approx(7.1e9, rel=0.01)


GIB = 2**30


@pytest.mark.parametrize(
    ("total", "free", "checkpointing", "sentence"),
    [
        (39.4, 39, "false", "has 42.3: set training.dvae.checkpointing=true, which needs 40"),
        (23, 23, "false", "has 24.7: use a GPU with more memory."),
        (23, 23, "true", "has 24.7: use a GPU with more memory."),
        (79, 20, "true", "has 21.5 free of 84.8: see with nvidia-smi what else computes there"),
    ],
)
def test_what_cannot_fit_is_refused(total, free, checkpointing, sentence):
    with pytest.raises(UserError) as refused:
        shortage(need(checkpointing=checkpointing), "GPU x", int(total * GIB), int(free * GIB))
    told = str(refused.value)
    assert told.startswith("dvae needs ") and sentence in told


def test_a_training_looks_at_its_gpu_before_it_begins(tmp_path, monkeypatch):
    gpu = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(loop, "make_accelerator", lambda plan, device: gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (22 * GIB, 23 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    folder, training = tmp_path / "dvae-0", Training(4, 4, 1e-4)
    plan = Plan("dvae", "dvae", folder, training, 0, (), {}, {}, {}, need=need())
    with pytest.raises(
        UserError, match=r"and this NVIDIA L4 has 24\.7: use a GPU with more memory"
    ):
        loop.train(plan, lambda: pytest.fail("a task was made"))
    assert not folder.exists()


def test_what_may_just_fit_is_a_warning():
    dense = need(checkpointing="false")
    assert "set training.dvae" in (shortage(dense, "x", 79 * GIB, 79 * GIB) or "")
    assert shortage(dense, "x", 139 * GIB, 139 * GIB) is None
    whole = int(dense.memory.total)
    assert shortage(dense, "x", whole, whole) and not shortage(dense, "x", *[int(1.06 * whole)] * 2)
    assert shortage(need(checkpointing="true"), "x", 79 * GIB, 78 * GIB) is None


SHORT = [
    *OVERRIDES,
    "training.dvae.images=16",
    "training.dvae.save_images=8",
    "dvae_loss.gan_start=8",
]
TRAIN = ["train", "dvae", *SHORT, "--launcher", "local", "--processes", "1"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        config = load(overrides=OVERRIDES)
        prepare(config, "photos", 1)
        calibrate(config, "photos")
    return folder


@pytest.mark.parametrize(
    ("checkpointing", "error", "cure"),
    [
        (
            "false",
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "set training.dvae.checkpointing=true, which needs 1.6 GB, changes no number",
        ),
        (
            "true",
            torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
            "use a GPU with more memory, or end what else computes there",
        ),
    ],
)
def test_a_full_memory_is_one_sentence_and_the_same_command_goes_on(
    prepared, tmp_path, monkeypatch, capsys, checkpointing, error, cure
):
    enter(Path(shutil.copytree(prepared, tmp_path / "work")), monkeypatch)
    command, loss = [*TRAIN, f"training.dvae.checkpointing={checkpointing}"], DvaeTask.loss

    def full(task, learner, networks, batch, images_seen):
        if images_seen == 8:
            raise error
        return loss(task, learner, networks, batch, images_seen)

    with monkeypatch.context() as patch:
        patch.setattr(DvaeTask, "loss", full)
        assert cli.main(command) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("d2it: error: The GPU's memory was full in the training of dvae: ")
    assert cure in told and "Traceback" not in told
    (log,) = Path("runs").rglob("log.txt")
    assert "error: The GPU's memory was full" in log.read_text()
    assert cli.main(command) == 0
    assert "resumed at 8/16 images" in log.read_text()


@pytest.mark.parametrize(
    "told",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "ncclUnhandledCudaError: Call to CUDA function failed.\nCuda failure 2 'out of memory'",
    ],
)
def test_libraries_say_in_words_that_a_memory_is_full(told):
    assert "The GPU's memory is full" in (cli.system_sentence(RuntimeError(told)) or "")


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(1 << 50),
        lambda: np.empty(1 << 50),
        lambda: bytearray(1 << 50),
        lambda: mmap.mmap(-1, 1 << 50),
    ],
)
def test_a_full_memory_of_the_machine_is_one_sentence(take):
    with pytest.raises((RuntimeError, MemoryError, OSError)) as raised:
        take()
    sentence = cli.system_sentence(raised.value) or ""
    assert sentence.startswith("This machine's memory is full, or") and ". " not in sentence


def test_other_errors_of_a_gpu_are_no_full_memory():
    for told in ("CUDA error: an illegal memory access", "CUDNN_STATUS_EXECUTION_FAILED"):
        assert cli.system_sentence(RuntimeError(told)) is None


def test_a_full_memory_is_one_sentence_in_every_verb(prepared, tmp_path, monkeypatch, capsys):
    enter(Path(shutil.copytree(prepared, tmp_path / "work")), monkeypatch)
    Path("data/smoke/photos/thresholds.json").unlink()

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("d2it.grains.calibrate.entropy_map", full)
    assert cli.main(["calibrate", "photos", *OVERRIDES]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("d2it: error: The GPU's memory is full: see with nvidia-smi")
