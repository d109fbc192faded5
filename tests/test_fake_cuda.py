"""What only the name `cuda` switches, on fake tensors: they need no driver, and compute nothing.

A fake step runs all of the project's code on tensors that say they are on a GPU: a tensor of the
CPU among them, or a number that the host wants to know, is an error. Autograd's engine alone looks
for a driver: gradients are zeros.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from d2it.config import Config
from d2it.config.run import run_of
from d2it.diffusion import Schedule
from d2it.grains.entropy import kernel_matrix
from d2it.machine.device import arithmetic, compile_blocks
from d2it.models.blocks import Attention, Block
from d2it.models.content_transformer import ContentTransformer
from d2it.models.inception import repeatable
from d2it.runs.plan import make_plan
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer
from tests.steps import BATCH, STEPS, batches_of, make_trainer, stirred, with_training
from tests.steps import config as config  # the fixture
from tests.test_transformers import change

CUDA = torch.device("cuda", 0)
SHAPE: dict[str, Any] = dict(width=32, heads=2, classes=3)


class FakeGpu:
    """What Trainer asks of accelerate, on one fake GPU."""

    device, num_processes, process_index, is_main_process = CUDA, 1, 0, True

    def __init__(self, mode: FakeTensorMode, bf16: bool) -> None:
        self.mode, self.bf16 = mode, bf16

    def put(self, tensor: Tensor) -> Tensor:
        with self.mode:
            return self.mode.from_tensor(tensor).detach().to(CUDA)

    def prepare(self, module: nn.Module) -> nn.Module:
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                moved = nn.Parameter(self.put(parameter), parameter.requires_grad)
                setattr(part, name, moved)
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, self.put(buffer))
        if self.bf16:  # torch.autocast looks for a driver; what it switches does not
            module.register_forward_pre_hook(lambda *_: set_autocast(True))
            module.register_forward_hook(lambda *_: set_autocast(False))
        return module

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        return tensor

    def no_sync(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def set_autocast(on: bool) -> None:
    torch.set_autocast_enabled("cuda", on)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.clear_autocast_cache()


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Fake tensors, with zeros for gradients."""

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad and loss.device == CUDA and loss.dtype == torch.float32
        for parameter in LEARNING:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def grad(outputs: Tensor, inputs: Tensor, *_: object, **__: object) -> tuple[Tensor]:
        assert outputs.device == inputs.device == CUDA
        return (torch.zeros_like(inputs),)

    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    yield FakeTensorMode()
    LEARNING.clear()


LEARNING: list[nn.Parameter] = []


def trainer_of(config: Config, run: str, mode: FakeTensorMode, **changes: Any) -> Trainer:
    config = with_training(config, run, **changes)
    plan, task = make_plan(run_of(config, run)), stirred(make_task(run_of(config, run)))
    gpu: Any = FakeGpu(mode, plan.training.precision == "bf16")
    with mode:
        if hasattr(task, "schedule"):
            task.schedule = Schedule()
    if hasattr(task, "lpips"):
        lpips = gpu.prepare(task.lpips)
        lpips.to = lambda device: lpips  # it is there; a fake parameter cannot be put there twice
    with mode:
        trainer = Trainer(plan, task, gpu)
    for learner in trainer.learners.values():
        LEARNING.extend(learner.module.parameters())
    return trainer


def shards_of(trainer: Trainer, mode: FakeTensorMode) -> list[dict[str, Tensor]]:
    batches = batches_of(trainer, pin=False)
    shards = batches.take()
    batches.close()
    return [{name: mode.from_tensor(t) for name, t in shard.items()} for shard in shards]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("run", ["dvae", "grain_classes", "d2it_b", "d2it_b_three", "dit_b"])
def test_a_step_leaves_nothing_on_the_cpu(config, mode, monkeypatch, run, precision):
    """Fused AdamW, clipping, averages, sums and CUDA's autocast among them."""
    kernel = kernel_matrix(*config.kernel)
    trainer = trainer_of(config, run, mode, precision=precision)
    shards = shards_of(trainer, mode)
    monkeypatch.setattr(
        "d2it.grains.entropy.kernel_matrix", lambda *_: trainer.accelerator.put(kernel)
    )
    with mode:
        for images in (0, BATCH):  # the discriminator rests, and plays
            trainer.step(shards, images)
        contents = trainer.contents()
    assert all(t.device == CUDA for tensors in contents.values() for t in tensors.values())
    assert all(t.is_floating_point() for t in contents["model"].values())


@pytest.mark.parametrize("fault", ["number", "index", "item"])
def test_faults_in_a_step_are_noticed(config, mode, fault):
    trainer = trainer_of(config, "dit_b", mode)
    shards, honest = shards_of(trainer, mode), trainer.task.loss
    faults = {
        "number": lambda batch, logs: logs.update(share=torch.tensor(0.5)),
        "index": lambda batch, logs: batch["noise"].index_select(0, torch.arange(1)),
        "item": lambda batch, logs: logs["mse_1"].item(),
    }

    def loss(learner, networks, batch, images_seen):
        value, logs = honest(learner, networks, batch, images_seen)
        faults[fault](batch, logs)
        return value, logs

    trainer.task.loss = loss
    with mode, pytest.raises(Exception, match="device|DataDependent|data-dependent|_local_scalar"):
        trainer.step(shards, 0)


def test_autocast_ends_where_codes_must_stay_equal(mode):
    """Blocks multiply in bf16; norms, what a network returns and losses are fp32."""
    seen: dict[str, set[torch.dtype]] = {}
    with mode, torch.device("cuda"):
        network = ContentTransformer(8, 4, 2, layers=(2, 1), window=4, **SHAPE)
        x, t, y = torch.zeros(2, 4, 8, 8), torch.zeros(2).long(), torch.zeros(2).long()
        for part in network.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d, Attention, nn.LayerNorm)):
                part.register_forward_hook(
                    lambda part, _, out: seen.setdefault(type(part).__name__, set()).add(out.dtype)
                )
        set_autocast(True)
        try:
            out = network(x, t, y, torch.ones(2, 4, 4).long())
        finally:
            set_autocast(False)
    assert seen["Linear"] == seen["Conv2d"] == seen["Attention"] == {torch.bfloat16}
    assert seen["LayerNorm"] == {torch.float32} and out.dtype == torch.float32


def test_flags_of_a_gpu_are_set_for_a_while():
    """TF32 by one interface alone: torch refuses a mixture of its two."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled
    with arithmetic("cuda", "tf32"):
        assert matmul.allow_tf32 and cudnn.allow_tf32
    with arithmetic("cuda", "fp32"):
        assert not matmul.allow_tf32 and cudnn.allow_tf32
    with repeatable():
        assert cudnn.enabled and cudnn.deterministic
        assert not cudnn.allow_tf32 and not cudnn.benchmark
    assert before == (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled)


@pytest.mark.parametrize("run", ["grain_classes", "d2it_b_three", "dit_b"])
def test_every_block_is_compiled_where_that_is_asked_for(config, mode, run):
    trainers = trainer_of(config, run, mode, compile=True), trainer_of(config, run, mode)
    for trainer, expected in zip(trainers, (True, False), strict=True):
        blocks = [p for p in trainer.published.module.modules() if isinstance(p, Block)]
        assert [block._compiled_call_impl is not None for block in blocks] == [
            expected for _ in blocks
        ]


def test_a_compiled_block_is_one_graph_for_any_number_of_windows(config):
    """Without Python in between, which would wait; and without a recompilation for every step."""
    config = change(config, "content", "d2it_b_three", skip_windows=True)
    trainer = make_trainer(config, "d2it_b_three")
    network = trainer.published.module
    compile_blocks(network, backend="eager")
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    batches = batches_of(trainer, pin=False)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for images in range(0, STEPS * BATCH, BATCH):
            trainer.step(batches.take(), images)
    batches.close()
    assert not counters["graph_break"] and 0 < counters["stats"]["unique_graphs"] <= 16
    torch._dynamo.reset()
