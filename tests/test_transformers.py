"""The second stage's tasks on small latents: what they draw, what they hide, and that they
learn.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from d2it.config import Config, load, paths
from d2it.config.recipe import digest
from d2it.config.run import run_of
from d2it.diffusion import Schedule
from d2it.errors import UserError
from d2it.evaluation.noise_error import epsilon_error
from d2it.files import write_json
from d2it.grains.maps import copy_within, route
from d2it.latents.cache import FORMAT, VERSION, Latents, shard_arrays
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT
from d2it.training.tasks import make_task
from d2it.training.transformers import mean_weight
from tests.composed import WHOLE

N, CLASSES = 24, 9
SHOWN = 7  # of them: networks of the photographs know no more
TWO, THREE = [8, 4], [16, 8, 4]


def write_latents(folder: Path, recipe_digest: str, factors: list[int], side: int = 16) -> None:
    """N images a split: coarse codes are means of fine ones; the lower half is busy."""
    generator, k = np.random.default_rng(0), len(factors)
    shard = {"count": N}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "recipe_digest": recipe_digest,
        "factors": factors,
        "channels": 4,
        "side": side,
        "classes": CLASSES,
        "splits": {
            s: {"count": N, "shards": [shard | {"name": f"{s}-00000"}]} for s in ("train", "test")
        },
        "ratios": {
            "0.5": {"cuts": [0.5], "scale": 0.5},
            "1": {"cuts": ["-inf"], "scale": 0.25},
            "0.25,0.25": {"cuts": [0.5, 0.75], "scale": 0.5},
            "random": {"quantiles": np.linspace(0, 1, 101).tolist(), "scale": 0.5},
        },
        "files": {},
    }
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        values = generator.normal(size=(N, 2, 4, side, side))
        for ending, (dtype, shape) in shard_arrays(header, N).items():
            array = np.full(shape, -4.0)  # the log-variance of all codes
            if ending.startswith("grain"):
                cells = 2 ** (k - 1 - int(ending[5:]))
                blocks = values.reshape(N, 2, 4, side // cells, cells, side // cells, cells)
                array[:, :, 0] = blocks.mean((4, 6))
            elif ending == "entropy":
                array = generator.uniform(0, 0.5, size=shape)
                array[:, shape[1] // 2 :] += 0.5
            else:
                array = np.arange(N) % SHOWN
            path = folder / f"{split}-00000-{ending}.bin"
            path.write_bytes(array.astype(dtype).tobytes())
            header["files"][path.name] = {"bytes": path.stat().st_size, "sha256": ""}
    write_json(folder / "manifest.json", header)


@pytest.fixture(scope="module")
def config() -> Config:
    torch.set_num_threads(1)
    return load(overrides=WHOLE)


def change(config: Config, kind: str, run: str, **changes) -> Config:
    """The configuration with other settings of one run."""
    table = getattr(config.runs, kind)
    table = table | {run: dataclasses.replace(table[run], **changes)}
    return dataclasses.replace(config, runs=dataclasses.replace(config.runs, **{kind: table}))


@pytest.fixture
def there(config, tmp_path, monkeypatch) -> Config:
    """A working directory with the latents of the demo's DVAEs."""
    monkeypatch.chdir(tmp_path)
    for dvae, factors in (("dvae", TWO), ("dvae_classes", TWO), ("dvae_three", THREE)):
        recipe = digest(run_of(config, dvae).latents_recipe)
        write_latents(paths.latents(config, dvae), recipe, factors)
    return config


def batch_of(task, n: int = 16, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = task.draw(torch.Generator().manual_seed(seed), n, 0)
    return task.fetch(np.arange(n)) | drawn


def loss_of(task, batch, network=None):
    (learner,) = task.learners
    return task.loss(learner.name, {learner.name: network or learner.module}, dict(batch), 0)


RUNS = ["grain", "grain_classes", "grain_elastic", "d2it_b", "d2it_b_classes"]
RUNS += ["d2it_b_elastic", "dit_b", "dit_b_classes", "grain_three_elastic", "d2it_b_three_elastic"]


@pytest.mark.parametrize("run", RUNS)
def test_every_task_learns(there, run):
    task = make_task(run_of(there, run))
    (learner,) = task.learners
    optimiser = torch.optim.AdamW(learner.module.parameters(), lr=3e-3)
    batch, losses = batch_of(task), []
    for _ in range(25):
        loss, logs = loss_of(task, batch)
        optimiser.zero_grad()
        loss.backward()
        trainable = [p for p in learner.module.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trainable)  # as gradient sharing demands
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(value.dim() == 0 and not value.requires_grad for value in logs.values())
    assert task.size == N and task.inputs["latents"] and learner.name == task.kind


@pytest.mark.parametrize("run", RUNS)
def test_a_shard_is_a_slice(there, run):
    """The loss of a batch is the mean of its halves': nothing else is shared within it."""
    task = make_task(run_of(there, run))
    for parameter in task.learners[0].module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    batch = batch_of(task)
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(8), slice(8, 16))]
    with torch.no_grad():
        whole, parts = loss_of(task, batch)[0], [loss_of(task, half)[0] for half in halves]
    assert whole.item() == pytest.approx(sum(parts).item() / 2, rel=1e-5)


def test_same_configuration_same_start(there):
    states = [make_task(run_of(there, "d2it_b")).learners[0].module.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Spy(torch.nn.Module):
    """A network that notes what it is asked and predicts zeros."""

    def forward(self, *asked):
        self.asked = asked
        return torch.zeros_like(asked[0])


@pytest.mark.parametrize("shared", [True, False])
def test_what_the_content_transformer_is_asked(there, shared):
    diffusion = dataclasses.replace(there.diffusion, shared_noise=shared)
    changed = dataclasses.replace(there, diffusion=diffusion)
    task, spy = make_task(run_of(changed, "d2it_b_classes")), Spy()
    batch = batch_of(task)
    batch["hidden"] = torch.arange(16) % 2 == 0
    loss, logs = loss_of(task, batch, spy)
    zt, t, y, map = spy.asked
    assert map[:, 4:].eq(1).all() and map[:, :4].eq(0).all()  # the lower half is busy
    assert torch.equal(t, batch["t"])
    assert y[0::2].eq(CLASSES).all() and torch.equal(y[1::2], batch["label"][1::2])
    assert torch.equal(zt, copy_within(zt, map, 2)) == shared
    # zeros are as wrong as the noise is large: about 1 a cell; alpha is 1/4 on half of the cells
    assert logs["mse_0"] == pytest.approx(1, abs=0.1) and logs["mse_1"] == pytest.approx(1, abs=0.1)
    assert loss == pytest.approx((logs["mse_0"] / 4 + logs["mse_1"]).item() / 2, rel=1e-4)


def test_codes_are_drawn_before_they_are_copied_and_mirrored_as_encoded(there):
    task, spy = make_task(run_of(there, "d2it_b")), Spy()
    batch = batch_of(task)
    batch["t"], batch["mirrored"] = torch.zeros(16, dtype=torch.long), torch.arange(16) < 8
    batch["noise"].zero_()
    loss_of(task, batch, spy)
    zt, _, _, map = spy.asked
    mirror = batch["mirrored"].long()
    codes = [
        batch[f"mean_{i}"][torch.arange(16), mirror].float()
        + batch[f"posterior_{i}"] * torch.exp(torch.tensor(-2.0))
        for i in range(2)
    ]
    level = Schedule().alpha_bar[0].sqrt().item()
    assert torch.allclose(zt, route(codes, map) * 0.5 * level, atol=1e-5)


def test_weights_are_switches(there):
    losses = {}
    for name, changes in {
        "weighted": {},
        "normalised": {"normalise_loss": True},
        "plain": {"grain_loss": False},
    }.items():
        task = make_task(run_of(change(there, "content", "d2it_b", **changes), "d2it_b"))
        losses[name] = loss_of(task, batch_of(task), Spy())[0].item()
    assert losses["normalised"] == pytest.approx(losses["weighted"] / 0.625, rel=1e-5)
    assert losses["plain"] == pytest.approx(losses["normalised"], rel=0.1)
    assert mean_weight(0.5) == 0.625 and mean_weight(1.0) == 1.0 and mean_weight(0.0) == 0.25
    assert mean_weight([0.25, 0.25]) == pytest.approx(0.5 / 16 + 0.25 / 4 + 0.25)


def test_dit_sees_every_region_fine(there):
    task, spy = make_task(run_of(there, "dit_b")), Spy()
    batch = batch_of(task)
    batch["t"], batch["noise"] = torch.zeros(16, dtype=torch.long), 0 * batch["noise"]
    loss_of(task, batch, spy)
    zt, _, y = spy.asked
    assert y is None
    fine = batch["mean_1"][torch.arange(16), batch["mirrored"].long()].float()
    assert (zt / 0.25 - fine).std() < 0.2


def test_unmirrored_data_stays_so(there):
    data = {name: dataclasses.replace(d, flip=False) for name, d in there.data.items()}
    still = dataclasses.replace(there, data=data)
    write_latents(Path("still"), digest(run_of(still, "dvae").latents_recipe), TWO)
    folder = paths.latents(still, "dvae")
    (folder / "manifest.json").write_bytes(Path("still/manifest.json").read_bytes())
    assert not make_task(run_of(still, "d2it_b")).draw(torch.Generator(), 64, 0)["mirrored"].any()
    assert make_task(run_of(still, "grain")).draw(torch.Generator(), 64, 0)["noise"].shape == (
        64,
        2,
        8,
        8,
    )


def test_three_grains_train(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    three = change(config, "dvae", "dvae", factors=THREE)
    three = change(three, "content", "d2it_b", ratio=[0.25, 0.25])
    three = change(three, "grain", "grain", ratio=[0.25, 0.25])
    write_latents(paths.latents(three, "dvae"), digest(run_of(three, "dvae").latents_recipe), THREE)
    task = make_task(run_of(three, "d2it_b"))
    loss, logs = loss_of(task, batch_of(task))
    loss.backward()
    assert set(logs) == {"mse_0", "mse_1", "mse_2"} and loss.isfinite()
    task = make_task(run_of(three, "grain"))
    assert loss_of(task, batch_of(task))[0].item() == pytest.approx(np.log(3), abs=1e-4)


def test_latents_of_other_settings_are_refused(there):
    other = dataclasses.replace(there, seed=there.seed + 1)
    with pytest.raises(UserError, match="d2it encode dvae"):
        make_task(run_of(other, "d2it_b"))


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_that_no_class_has_are_refused_before_training(there, label):
    """On a GPU a network does not look at its labels."""
    path = paths.latents(there, "dvae_classes") / "train-00000-labels.bin"
    labels = np.fromfile(path, "<i8")
    labels[3] = label
    labels.tofile(path)
    with pytest.raises(
        UserError, match=r"labels outside 0\.\.8.*`d2it encode dvae_classes`"
    ) as error:
        make_task(run_of(there, "d2it_b_classes"))
    assert "\n" not in str(error.value)


def networks() -> tuple[ContentTransformer, DiT]:
    content = ContentTransformer(16, 4, 2, 16, 2, (1, 1), 4, 0, learn_sigma=False)
    return content, DiT(16, 4, 2, 16, 1, 2, 0, learn_sigma=False)


def test_epsilon_error_is_paired(there):
    latents, schedule = Latents.open(paths.latents(there, "dvae"), "test"), Schedule()
    content, dit = networks()
    errors = epsilon_error(content, latents, 0.5, schedule, n=20)
    assert errors == epsilon_error(content, latents, 0.5, schedule, n=20)
    # both say zero at first, so they are equally wrong where they are asked the same: on fine cells
    plain = epsilon_error(dit, latents, 1.0, schedule, n=20, regions=0.5)
    assert errors["epsilon_error_1"] == pytest.approx(plain["epsilon_error_1"], rel=1e-6)
    assert errors["epsilon_error_1"] == pytest.approx(1, abs=0.05)
    assert errors["epsilon_error_0"] != plain["epsilon_error_0"]
    whole = (errors["epsilon_error_0"] + errors["epsilon_error_1"]) / 2
    assert errors["epsilon_error"] == pytest.approx(whole)
    assert epsilon_error(dit, latents, 1.0, schedule, n=4)["epsilon_error_0"] is None
    assert errors != epsilon_error(content, latents, 0.5, schedule, n=20, seed=1)
