"""Steps of every kind of run in a tiny world, on any device, and what they leave."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from d2it.clock import Order
from d2it.config import Config, load, paths
from d2it.config.recipe import digest
from d2it.config.run import run_of
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.runs.plan import make_plan
from d2it.training.batches import Batches
from d2it.training.loop import make_accelerator
from d2it.training.task import Task
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer
from tests.chosen_device import chosen
from tests.test_transformers import THREE, TWO, write_latents
from tests.tiny_world import FEW_PHOTOS, SHALLOW, enter

Batch = dict[str, Tensor]
BATCH, STEPS = 4, 3
KINDS = ("dvae", "grain", "content", "dit")
OVERRIDES = [
    *FEW_PHOTOS,
    *SHALLOW,
    *(f"training.{kind}.images={STEPS * BATCH}" for kind in KINDS),
    *(f"training.{kind}.batch={BATCH}" for kind in KINDS),
    *(f"training.{kind}.{key}=0" for kind in KINDS for key in ("log_images", "save_images")),
    *(f"training.{kind}.snapshot_images=8" for kind in KINDS),
    *(f"training.{kind}.clip=1.0" for kind in KINDS),
    f"dvae_loss.gan_start={BATCH}",  # it rests in the first step
    "training.dvae.learning_rate=1.0e-5",  # GANs are chaotic: last bits would grow
    "model.dvae.channels=8",
    "model.dvae.discriminator_channels=8",
    "diffusion.learn_sigma=true",
    "runs.dvae.dvae_three.ratio=[0.25,0.25]",  # what the latents are measured at
    "runs.dvae.dvae_three.ratios=[[0.25,0.25]]",
]
# what looks on during a step that begins after so many images, and what it has found
Watch = Callable[[Trainer, int], AbstractContextManager[list[Any]]]


def unwatched(trainer: Trainer, images: int) -> AbstractContextManager[list[Any]]:
    return nullcontext([])


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """Images and thresholds of two and of three grains, and latents that were drawn. It serves the
    files that import it.
    """
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        config = load(overrides=OVERRIDES)
        prepare(config, "photos", 1)
        calibrate(config, "photos")
        for dvae, factors in (("dvae", TWO), ("dvae_three", THREE)):
            recipe = digest(run_of(config, dvae).latents_recipe)
            write_latents(paths.latents(config, dvae), recipe, factors)
        yield config


@dataclasses.dataclass
class Outcome:
    """What some steps left: the state, the means to be logged, what was seen in each step."""

    state: dict[str, Tensor]
    means: dict[str, float]
    waits: list[list[Any]]


def stirred(task: Task) -> Task:
    """With random numbers where networks begin with zeros, behind which nothing would show."""
    generator = torch.Generator().manual_seed(0)
    for learner in task.learners:
        for parameter in learner.module.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return task


def with_training(config: Config, run: str, **changes: object) -> Config:
    """The configuration with other settings of how runs of this kind are trained."""
    training = dataclasses.replace(getattr(config.training, run_of(config, run).kind), **changes)
    table = dataclasses.replace(config.training, **{run_of(config, run).kind: training})
    return dataclasses.replace(config, training=table)


def batches_of(trainer: Trainer, pin: bool, begin: int = 0) -> Batches:
    plan, task = trainer.plan, trainer.task
    order = Order(plan.seed, task.size)
    batches = Batches(task, order, plan.seed, BATCH, plan.training.shards, trainer.mine, pin)
    batches.start(begin, STEPS * BATCH)
    return batches


def train(
    config: Config, run: str, device: str, watch: Watch = unwatched, **changes: object
) -> Outcome:
    """The steps of a run on this device."""
    config = with_training(config, run, **changes)
    with chosen(device):
        return take_steps(make_trainer(config, run), watch)


def make_trainer(config: Config, run: str) -> Trainer:
    plan, task = make_plan(run_of(config, run)), stirred(make_task(run_of(config, run)))
    return Trainer(plan, task, make_accelerator(plan, "auto"))


def take_steps(trainer: Trainer, watch: Watch = unwatched) -> Outcome:
    waits, batches = [], batches_of(trainer, pin=trainer.device.type != "cpu")
    for images in range(0, STEPS * BATCH, BATCH):
        shards = batches.take()
        with watch(trainer, images) as found:
            trainer.step(shards, images)
        waits.append(found)
    batches.close()
    assert int(trainer.first_bad) < 0
    contents = trainer.contents()
    state = {
        f"{s}/{name}": t.detach().cpu() for s, ts in contents.items() for name, t in ts.items()
    }
    return Outcome(state, trainer.sums.means(trainer.sums.total(lambda t, how: t)), waits)


def assert_equal(found: Outcome, expected: Outcome) -> None:
    assert found.means == expected.means
    assert list(found.state) == list(expected.state)
    for name, tensor in found.state.items():
        assert torch.equal(tensor, expected.state[name]), name


def assert_close(found: Outcome, expected: Outcome, tolerance: float) -> None:
    assert found.means == pytest.approx(expected.means, rel=tolerance)
    assert list(found.state) == list(expected.state)
    for part in ("model", "raw", "power", "rest/optimiser"):
        ours, theirs = (
            torch.cat([t.double().flatten() for name, t in one.state.items() if part in name])
            for one in (found, expected)
        )
        assert (ours - theirs).norm() < tolerance * theirs.norm(), part
