"""A scale begins with another one and keeps a few of its runs; a repeat is its experiment again."""

import pytest
import yaml

from d2it import cli
from d2it.config import load
from d2it.config.load import compose
from d2it.config.recipe import repeats_of
from d2it.config.run import run_of
from d2it.errors import UserError
from tests.test_workflow import checkout_at

FEW = {  # what a user's own scale keeps of another one
    "demo": ("dvae_classes", "grain_classes"),
    "mini_cpu": ("dvae", "dvae_classes", "grain_classes", "dit_b"),
    "paper": ("dvae_classes", "grain_classes"),
}


def scale_of(other: str, *experiments: str) -> str:
    return f"""# @package _global_
defaults: [{other}, override /experiment@runs: [{", ".join(experiments)}], _self_]
name: mine
first_stage: {{r100: dvae, classes_r100: dvae}}
"""


@pytest.mark.parametrize("other", FEW)
def test_a_users_scale_keeps_a_few_runs(other, tmp_path, monkeypatch, capsys):
    checkout = checkout_at(tmp_path)
    (tmp_path / "params/scale/mine.yaml").write_text(scale_of(other, *FEW[other]))
    planned = checkout.planned("scale=mine", targets=["all_evaluations"])
    repeats = {"dit_b_s1", "dit_b_s2", "dit_b_s3", "dit_b_s4"} if "dit_b" in FEW[other] else set()
    asked = {command.split()[2] for command in planned if command.startswith("d2it evaluate ")}
    assert asked == {*FEW[other]} | repeats

    monkeypatch.chdir(tmp_path)
    assert cli.main(["config", "scale=mine"]) == 0
    written = yaml.safe_load(capsys.readouterr().out)
    assert {run for runs in written["runs"].values() for run in runs} == asked
    assert written["repeats"] == ({"dit_b": 5} if repeats else {})
    if repeats:
        mine, theirs = load(overrides=["scale=mine"]), load(overrides=[f"scale={other}"])
        assert run_of(mine, "dit_b_s4").id == run_of(theirs, "dit_b_s4").id


def test_a_repeat_has_all_settings_of_its_experiment():
    evaluations = "runs.content.d2it_b.evaluations={main: {guidance: 1.5}}"
    several = ["scale=mini", "repeats.d2it_b=12", "runs.content.d2it_b.images=512000", evaluations]
    config = load(overrides=several)
    runs = [config.runs.content[name] for name in repeats_of(config, "d2it_b")]
    assert len(runs) == 12 and all(run == runs[0] for run in runs)
    assert runs[11].images == 512000 and runs[11].evaluations["main"].guidance == 1.5
    assert compose(several)["runs"]["content"]["d2it_b_s11"]["images"] == 512000
    assert "d2it_b_s1" not in load(overrides=["scale=mini", "repeats.d2it_b=1"]).runs.content


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["scale=mini", "runs.dit.dit_b_s1.size=L"], "differ in their training seed alone"),
        (["scale=smoke", "runs.content.d2it_b_r30.images=64"], "d2it_b_r30.latents' is missing"),
        (["scale=smoke", "repeats.d2it_b_r30=2"], "'d2it_b_r30', which this scale does not have"),
        (["scale=smoke", "repeats.d2it_b=many"], "repeats.d2it_b is 'many', but must be a whole"),
        (["scale=smoke", "runs.content=5"], "runs.content is 5, but must be a table"),
        (["scale=smoke", "repeats=2", "runs=3"], "repeats is 2, but must be a table"),
    ],
)
def test_what_the_user_names_is_not_dropped(overrides, sentence):
    with pytest.raises(UserError) as raised:
        load(overrides=overrides)
    assert sentence in str(raised.value)
