"""Runs of one recipe are trained once, and evaluated once, whatever they are called."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from d2it.config import Config, load, paths
from d2it.config.run import Run, run_of, runs_of
from d2it.evaluation import samples
from d2it.evaluation.evaluate import evaluate
from d2it.evaluation.reference import make_reference
from d2it.files import read_json
from d2it.grains.calibrate import calibrate
from d2it.images.prepare import prepare
from d2it.jobs.launch import launch
from d2it.jobs.launcher import load_launcher
from d2it.latents.encode import encode
from tests.commands import command
from tests.forked import Forked
from tests.tiny_world import OVERRIDES, enter, save_random

EQUAL = [
    "runs.dvae.dvae_again=${runs.dvae.dvae}",
    "runs.dit.dit_b_again={latents: dvae_again, data: photos, "
    "evaluations: {main: {}, half: {at: 0.5}}}",
]
NAMES = ("dit_b", "dit_b_again")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory):
    """Two DVAEs of one recipe with the same weights and their latents, and a DiT to train on each;
    the second is also evaluated half-way."""
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("equal"), patch)
        config = load(overrides=[*OVERRIDES, *EQUAL])
        prepare(config, "photos", 1)
        calibrate(config, "photos")
        for name in ("dvae", "dvae_again"):
            save_random(config, name, 0)
            encode(run_of(config, name))
        make_reference(config, "photos")
        yield config


def starts(folder: Path) -> list[int]:
    """Images seen at each start of a training."""
    provenance = read_json(folder / "provenance.json", made_by="")
    return [start["images"] for start in provenance["starts"]]


def forget(config: Config) -> None:
    shutil.rmtree(paths.runs_folder(), ignore_errors=True)
    for name in NAMES:
        shutil.rmtree(run_of(config, name).model, ignore_errors=True)


def test_the_second_name_is_published_without_a_training(config, capsys):
    forget(config)
    first, second = (run_of(config, name) for name in NAMES)
    launch(first, load_launcher("local"))
    assert starts(first.folder) == [0]
    capsys.readouterr()
    launch(second, load_launcher("local"))
    assert "trained to 64 images before; published again" in capsys.readouterr().out
    assert [folder.name for folder in paths.runs_folder().iterdir()] == [second.id]
    assert starts(second.folder) == [0]
    weights = [(run.model / "model.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]
    # what one of them wants was kept for it, and is published as its own alone
    assert [(run.model / "milestone-32.safetensors").exists() for run in (first, second)] == [0, 1]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_two_that_start_at_once_train_once(config, processes):
    forget(config)
    assert command("config", "--write", "params.yaml", *OVERRIDES, *EQUAL).returncode == 0
    words = ["train", "--wait", "--processes", processes, "--params", "params.yaml"]
    both = [Forked("d2it", *words, name) for name in NAMES]
    told = [process.end() for process in both]
    assert [done.returncode for done in told] == [0, 0], told
    first, second = (run_of(config, name) for name in NAMES)
    assert first.folder == second.folder and starts(first.folder) in ([0], [0, 64])
    lines = (first.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [16, 32, 48, 64]
    assert all((run.model / "model.safetensors").exists() for run in (first, second))


def test_an_evaluation_that_both_ask_for_is_drawn_once(config, monkeypatch):
    forget(config)
    for name in NAMES:
        launch(run_of(config, name), load_launcher("local"))
    drawn, draw = [], samples.RunPipeline.draw

    def noted(self, *rest):
        drawn.append(rest)
        return draw(self, *rest)

    monkeypatch.setattr(samples.RunPipeline, "draw", noted)
    first, second = (run_of(config, name) for name in NAMES)
    evaluate(first)
    once = len(drawn)
    evaluate(second)
    assert len(drawn) == 2 * once > 0  # half-way, which the second alone asks for
    found = [read_json(run.evaluation, made_by="")["evaluations"] for run in (first, second)]
    assert found[0]["main"] == found[1]["main"] and set(found[1]) == {"main", "half"}


def folders(config: Config, *names: str) -> list[str]:
    return [run_of(config, name).folder.name for name in names]


@pytest.fixture
def published(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return load(overrides=["scale=paper", "ratio=0.7"])


def test_the_name_that_holds_at_any_main_ratio_leads(published):
    """What `dvae_r70` was trained to at the main ratio .5 serves `dvae` at .7, and the reverse."""
    usual = load(overrides=["scale=paper"])
    (special,) = folders(usual, "dvae_r70")
    assert folders(published, "dvae", "dvae_r70") == [special, special]
    assert folders(published, "d2it_b")[0].startswith("d2it_b_r70-")
    assert folders(published, "d2it_l")[0].startswith("d2it_l-")
    assert len({run.folder for run in runs_of(usual).values()}) == len(runs_of(usual))


def test_what_is_there_goes_on_where_it_is(published):
    plain, special = run_of(published, "dvae"), run_of(published, "dvae_r70")
    (paths.runs_folder() / plain.id).mkdir(parents=True)
    assert folders(published, "dvae", "dvae_r70") == [plain.id, plain.id]
    (paths.runs_folder() / special.id).mkdir()  # both were trained when names had their own
    assert folders(published, "dvae", "dvae_r70") == [plain.id, special.id]


def test_another_seed_or_length_is_another_training(published):
    runs = published.runs.dvae
    longer = {**runs, "dvae": replace(runs["dvae"], images=2 * 12811520)}
    config = replace(published, runs=replace(published.runs, dvae=longer))
    assert run_of(config, "dvae").digest == run_of(config, "dvae_r70").digest
    assert len(set(folders(config, "dvae", "dvae_r70"))) == 2
    mini = load(overrides=["scale=mini_cpu", "ratio=0.7"])
    repeats = folders(mini, "d2it_b", "d2it_b_s1", "d2it_b_s2")
    assert len(set(repeats)) == 3
    assert repeats == folders(mini, "d2it_b_r70", "d2it_b_r70_s1", "d2it_b_r70_s2")


def test_a_run_travels_to_other_processes_whole():
    run: Run = pickle.loads(pickle.dumps(run_of(load(), "d2it_b")))
    assert run.grain is run.peers["grain"] and run.peers["d2it_b"] is run
    assert run.recipe == run_of(load(), "d2it_b").recipe
