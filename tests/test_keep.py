"""A study outlives its machine: a new seed is trained on the first stage that git has kept."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from d2it.cli import main
from d2it.config import load
from d2it.config.run import run_of
from d2it.grains.calibrate import calibrate
from d2it.images.packed import open_images
from d2it.images.prepare import prepare
from d2it.latents.cache import open_latents
from d2it.models.architecture import architecture
from d2it.models.dvae import Dvae
from d2it.models.store import read_model, save_model
from d2it.runs.plan import make_plan
from tests.tiny_world import FEW_PHOTOS, enter

SETTINGS = [
    *FEW_PHOTOS,
    "repeats={d2it_b: 2}",
    "training.content.images=16",
    "training.content.save_images=16",
]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose DVAE has published random weights."""
    enter(tmp_path, monkeypatch)
    config = load(overrides=SETTINGS)
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    run = run_of(config, "dvae")
    plan, shape = make_plan(run), architecture(run)
    torch.manual_seed(0)
    weights = dict.fromkeys(("model", "raw"), Dvae(**shape).state_dict())
    batch = plan.training.batch
    inputs = {"images": open_images(config, "photos", "train").digest}
    save_model(run.model, "dvae", shape, plan.recipe, plan.images, batch, inputs, weights)
    return run.model


def test_a_new_seed_trains_on_the_first_stage_that_was_kept(umask, study, capsys):
    digest = read_model(study)["files"]["model.safetensors"]["sha256"]
    assert main(["keep", "dvae", *SETTINGS]) == 0
    shutil.rmtree(study)  # another machine: git brought what was kept, and nothing else
    assert main(["train", "dvae", *SETTINGS]) == 0
    assert "already trained" in capsys.readouterr().out
    assert not Path("runs").exists()
    assert main(["encode", "dvae", *SETTINGS]) == 0
    assert main(["train", "--processes=1", "d2it_b_s1", *SETTINGS]) == 0
    seed = run_of(load(overrides=SETTINGS), "d2it_b_s1")
    assert open_latents(seed.dvae, "train").header["dvae_digest"] == digest
    assert read_model(seed.model)["images"] == 16
    made = [path for path in Path().rglob("*") if path.is_file()]
    of_all = ("state.json", "rest.safetensors", "model.safetensors", "manifest.json", "model.json")
    assert {path.name for path in made} >= set(of_all)
    closed = {
        str(path): oct(mode) for path in made if (mode := path.stat().st_mode & 0o777) != 0o644
    }
    assert not closed, "a group cannot go on"


def test_only_the_same_settings_take_it(study, capsys):
    main(["keep", "dvae", *SETTINGS])
    shutil.rmtree(study)
    short = [*SETTINGS, "training.dvae.images=16", "dvae_loss.gan_start=8"]
    assert main(["train", "--processes=1", "dvae", *short]) == 0
    assert "trained to 16 images" in capsys.readouterr().out


def test_what_is_damaged_is_not_taken(study, capsys):
    main(["keep", "dvae", *SETTINGS])
    shutil.rmtree(study)
    kept = study.parents[1] / "kept" / "dvae"
    with open(kept / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00")
    assert main(["train", "dvae", *SETTINGS]) == 2
    assert f"git checkout -- {kept}" in capsys.readouterr().err
    assert not study.exists() and not Path("runs").exists()


def test_what_is_not_trained_is_not_kept(study, capsys):
    shutil.rmtree(study)
    assert main(["keep", "dvae", *SETTINGS]) == 2
    assert "d2it train dvae" in capsys.readouterr().err
    assert main(["keep", *SETTINGS]) == 2
    assert "Name the runs" in capsys.readouterr().err
