"""Training on a device that is not the CPU: no tensor is left behind, nothing waits, same numbers.

Every kind of run takes steps on the simulated accelerator and on the CPU. The first step may wait
for what is sent once; in later ones the host may not wait at all, but where windows are counted.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import tests.simulated as simulated
from d2it.calibration import calibrate
from d2it.config import Config, load, paths
from d2it.config.recipe import digest, kind_of, latents_recipe
from d2it.data.prepare import prepare
from d2it.training import engine
from d2it.training.clock import Order
from d2it.training.engine import make_accelerator
from d2it.training.feed import Feed, Shards
from d2it.training.run_folder import make_plan
from d2it.training.task import Task
from d2it.training.tasks import make_task
from d2it.training.trainer import Trainer
from tests import tiny_run
from tests.simulated import Mixed, Wait
from tests.test_second_stage import THREE, TWO, change, write_latents
from tests.test_training import fingerprint
from tests.tiny_world import enter

Batch = dict[str, Tensor]
BATCH, STEPS = 4, 3
KINDS = ("dvae", "grain", "content", "dit")
OVERRIDES = [
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=7",
    "data.photos.reference=7",
    *(f"training.{kind}.images={STEPS * BATCH}" for kind in KINDS),
    *(f"training.{kind}.batch={BATCH}" for kind in KINDS),
    *(f"training.{kind}.{key}=0" for kind in KINDS for key in ("log_images", "save_images")),
    *(f"training.{kind}.snapshot_images=8" for kind in KINDS),
    *(f"training.{kind}.clip=1.0" for kind in KINDS),
    f"dvae_loss.gan_start={BATCH}",  # it rests in the first step
    "training.dvae.learning_rate=1.0e-5",  # GANs are chaotic: last bits would grow
    "diffusion.learn_sigma=true",
    "runs.dvae.dvae_three.ratio=[0.25,0.25]",  # what the latents are measured at
    "runs.dvae.dvae_three.ratios=[[0.25,0.25]]",
]
SWITCHES = dict(
    positions="fixed", grain_loss=True, normalise_loss=True, bias="global", heads=3,
    share_condition=False, qk_norm=True,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """Images and thresholds of two and of three grains, and latents that were drawn."""
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        config = load(overrides=OVERRIDES)
        prepare(config, "photos", 1)
        calibrate(config, "photos")
        for dvae, factors in (("dvae", TWO), ("dvae_three", THREE)):
            recipe = digest(latents_recipe(config, dvae))
            write_latents(paths.latents(config, dvae), recipe, factors)
        yield config


@dataclasses.dataclass
class Outcome:
    """What some steps left: the state, the means to be logged, the waits of each step."""

    state: dict[str, Tensor]
    means: dict[str, float]
    waits: list[list[Wait]]


def stirred(task: Task) -> Task:
    """With random numbers where networks begin with zeros, behind which nothing would show."""
    generator = torch.Generator().manual_seed(0)
    for player in task.players:
        for parameter in player.module.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return task


def with_training(config: Config, run: str, **changes: object) -> Config:
    """The configuration with other settings of how runs of this kind are trained."""
    training = dataclasses.replace(getattr(config.training, kind_of(config, run)), **changes)
    table = dataclasses.replace(config.training, **{kind_of(config, run): training})
    return dataclasses.replace(config, training=table)


def feed_of(trainer: Trainer, pin: bool) -> Feed:
    plan, task = trainer.plan, trainer.task
    order = Order(plan.seed, task.size)
    feed = Feed(task, order, plan.seed, BATCH, plan.training.shards, trainer.mine, pin)
    feed.start(0, STEPS * BATCH)
    return feed


def train(config: Config, run: str, device: str = "sim:0", **changes: object) -> Outcome:
    """The steps of a run on the simulated accelerator or on another device."""
    config = with_training(config, run, **changes)
    with simulated.chosen(device):
        return take_steps(make_trainer(config, run))


def make_trainer(config: Config, run: str) -> Trainer:
    plan, task = make_plan(config, run), stirred(make_task(config, run))
    return Trainer(plan, task, make_accelerator(plan, "auto"))


@contextlib.contextmanager
def forbidden_waits(device: torch.device, first: bool) -> Iterator[None]:
    """On a GPU torch itself raises where the host would wait, in all steps but the first."""
    if device.type != "cuda" or first:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def take_steps(trainer: Trainer) -> Outcome:
    waits, feed = [], feed_of(trainer, pin=trainer.device.type != "cpu")
    for images in range(0, STEPS * BATCH, BATCH):
        shards = feed.take()
        with simulated.waits() as found, forbidden_waits(trainer.device, first=not images):
            trainer.step(shards, images)
        waits.append(found)
    feed.close()
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


def assert_only_uploads(waits: list[Wait]) -> None:
    """Tables of the schedule, the kernel of entropies or the weights of LPIPS: sent once."""
    assert {wait.what for wait in waits} <= {"copy from pageable memory"}


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        ("grain", {}),
        ("grain_classes", {"shards": 1, "clip": None}),
        ("grain_three", {"weight_decay": 0.1}),
        ("d2it_b", {"shards": 4}),
        ("d2it_b", {"checkpointing": True, "ema_half_life": 0.0}),
        ("d2it_xl_classes", {}),
        ("d2it_b_three", {"warmup": 64, "snapshot_images": 0}),
        ("dit_b", {"checkpointing": True}),
        ("dit_xl_classes", {}),
    ],
)
def test_steps_wait_for_nothing_and_give_the_cpus_numbers(config, run, changes):
    found = train(config, run, **changes)
    assert_only_uploads(found.waits[0])
    assert found.waits[1:] == [[], []]
    assert_equal(found, train(config, run, "cpu", **changes))


@pytest.mark.parametrize(
    ("run", "changes"), [("dvae", {"checkpointing": True}), ("dvae_three", {"shards": 4})]
)
def test_the_first_stage_with_its_discriminator_resting_and_at_work(config, run, changes):
    """To rounding: backward through GroupNorm, torch keeps images channels-last on a CPU alone."""
    found = train(config, run, **changes)
    assert_only_uploads(found.waits[0])
    assert found.waits[1:] == [[], []]
    expected = train(config, run, "cpu", **changes)
    assert {"loss/discriminator", "d_weight", "fine_share", "std_1"} <= set(found.means)
    assert_close(found, expected, 1e-4)


def test_all_switches(config):
    changed = change(config, "content", "d2it_b_three", **SWITCHES)
    found = train(changed, "d2it_b_three")
    assert found.waits[1:] == [[], []]
    assert_equal(found, train(changed, "d2it_b_three", "cpu"))


def test_skipped_windows_are_counted_once_a_network_and_shard(config):
    """Their number is a shape, which the host has to know."""
    changed = change(config, "content", "d2it_b_three", skip_windows=True)
    found = train(changed, "d2it_b_three")
    for waits in found.waits[1:]:
        assert [wait.what for wait in waits] == ["nonzero"] * 4  # two RefineNets, two shards
    assert_equal(found, train(changed, "d2it_b_three", "cpu"))


@pytest.mark.parametrize("run", ["grain", "d2it_b_three", "dit_b"])
def test_steps_in_bf16(config, run):
    """By autocast with CUDA's choice of operations: 8 bits, not the CPU's numbers."""
    found = train(config, run, precision="bf16")
    assert found.waits[1:] == [[], []]
    exact = train(config, run, "cpu")
    assert found.means != exact.means
    assert_close(found, exact, 0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("run", ["dvae", "grain_classes", "d2it_b_three", "dit_xl_classes"])
def test_steps_on_a_gpu(config, monkeypatch, run, precision):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = train(config, run, "cuda", precision=precision)
    assert_close(found, train(config, run, "cpu"), 0.05 if precision == "bf16" else 0.01)


def test_a_resumed_run_has_the_cpus_files(tmp_path, monkeypatch):
    """By the real loop, which waits where it logs and saves, and in no step."""
    seen: list[list[Wait]] = []
    step = Trainer.step

    def watched(self: Trainer, shards: Shards, images: int) -> None:
        with simulated.waits() as found:
            step(self, shards, images)
        seen.append(found)

    def run(folder: str, images: int, device: str) -> None:
        plan = tiny_run.tiny_plan(tmp_path / folder, images, snapshot_images=100)
        engine.train(plan, lambda: tiny_run.TinyTask(plan.training), device)

    run("cpu", 640, "cpu")
    monkeypatch.setattr(Trainer, "step", watched)
    with simulated.chosen(), simulated.waits() as waits:
        run("there", 496, "auto")
        run("there", 640, "auto")
    assert len(seen) == 40 and not any(seen)
    assert {"item", "copy to the CPU"} <= {wait.what for wait in waits}
    assert fingerprint(tmp_path / "there") == fingerprint(tmp_path / "cpu")


def planted(config: Config, fault: Callable[[Batch, Batch], None]) -> Outcome:
    """Steps of a task whose loss does something wrong with its batch or its log terms."""
    with simulated.chosen():
        plan, task = make_plan(config, "dit_b"), make_task(config, "dit_b")
        honest = task.loss

        def loss(player, networks, batch, images_seen):
            value, logs = honest(player, networks, batch, images_seen)
            fault(batch, logs)
            return value, logs

        task.loss = loss
        return take_steps(Trainer(plan, task, make_accelerator(plan, "auto")))


def test_a_number_of_the_cpu_among_the_log_terms_is_noticed(config):
    def fault(batch: Batch, logs: Batch) -> None:
        logs["share"] = torch.tensor(0.5)

    with pytest.raises(Mixed, match="stack: a CPU tensor"):
        planted(config, fault)


def test_an_index_left_on_the_cpu_is_noticed(config):
    def fault(batch: Batch, logs: Batch) -> None:
        logs["first"] = batch["noise"][torch.arange(1)].mean()

    with pytest.raises(Mixed, match="index: a CPU tensor"):
        planted(config, fault)


def test_a_wait_in_a_step_is_noticed_with_its_line(config):
    def fault(batch: Batch, logs: Batch) -> None:
        assert logs["mse_1"].item() > 0

    steps = planted(config, fault).waits
    assert [[wait.what for wait in waits] for waits in steps[1:]] == [["item"] * 2] * 2
    assert all(wait.where.startswith("training/trainer.py:") for wait in steps[1])


def test_a_blocking_upload_in_a_step_is_noticed(config):
    def fault(batch: Batch, logs: Batch) -> None:
        logs["share"] = torch.tensor(0.5, device=batch["noise"].device)

    assert all(planted(config, fault).waits)
