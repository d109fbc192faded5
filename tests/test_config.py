"""The configuration is closed, typed and tells people what they meant; recipes see only what they should."""

import subprocess
import sys
from dataclasses import replace

import pytest

from d2it.config import load
from d2it.config.recipe import latents_recipe, run_name, run_recipe
from d2it.errors import UserError


def d2it(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "d2it", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rato=0.3", "There is no setting 'rato' (did you mean 'ratio'?)."),
        ("scal=smoke", "There is no setting 'scal' (did you mean 'scale'?)."),
        ("training.content.bach=8", "'training.content.bach' (did you mean 'batch'?)"),
        ("ratio=1.5", "ratio is 1.5, but a share of regions lies in [0, 1]"),
        ("ratio=half", "ratio is 'half', but must be a number"),
        ("scale=dmo", "There is no scale 'dmo' (did you mean 'demo'?)"),
        ("runs.content.d2it_b.latents=dvea", "'dvea', which this scale does not have"),
        ("runs.content.d2it_b.size=M", "names the size 'M'"),
        ("training.dvae.shards=3", "must be a power of two that divides the batch"),
        ("model.factors=[16,4]", "must halve from coarse to fine"),
        ("data.photos.size=60", "do not divide into regions of 8 px"),
        ("evaluation.n=1", "evaluation.n must be at least 2"),
        ("ratio", "is not an override: write key=value"),
        ("x=[a", "The configuration cannot be composed"),
    ],
)
def test_bad_overrides_get_one_sentence(override, sentence):
    done = d2it("config", override)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_unknown_experiment_is_named_with_the_nearest():
    done = d2it("train", "d2it_bb")
    assert done.returncode == 2
    assert "There is no experiment 'd2it_bb'" in done.stderr and "d2it_b" in done.stderr
    assert "Traceback" not in done.stderr


def test_params_file_that_is_missing_or_damaged(tmp_path):
    damaged = tmp_path / "params.yaml"
    damaged.write_text("ratio: [0.5")
    for path, sentence in [(tmp_path / "none.yaml", "is missing"), (damaged, "is not YAML")]:
        done = d2it("config", "--params", str(path))
        assert done.returncode == 2 and sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_composing_needs_no_torch():
    program = (
        "import sys; from d2it.config import load; load(); "
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_written_configuration_reads_back_as_itself(tmp_path):
    assert d2it("config", "--write", str(tmp_path / "p.yaml"), "ratio=0.7").returncode == 0
    assert load(tmp_path / "p.yaml") == load(overrides=["ratio=0.7"])
    with pytest.raises(UserError, match="already composed"):
        load(tmp_path / "p.yaml", ["ratio=0.3"])


def test_recipes_see_what_decides_their_numbers_and_nothing_else():
    config = load()

    def named(*overrides: str, run: str) -> str:
        return run_name(load(overrides=list(overrides)), run)

    # The one DVAE serves every ratio, so the ratio is not in it; D²iT-B at the main ratio has it.
    assert named("ratio=0.7", run="dvae") == run_name(config, "dvae")
    assert named("ratio=0.7", run="d2it_b") != run_name(config, "d2it_b")
    assert named("ratio=0.7", run="d2it_b_r30") == run_name(config, "d2it_b_r30")
    # A longer training extends the run; machines' settings are not science.
    longer = ["training.content.images=12800", "training.content.save_images=64"]
    assert named(*longer, run="d2it_b") == run_name(config, "d2it_b")
    # The transformers' settings are invisible to the DVAE and visible to their own runs.
    rate = "training.content.learning_rate=0.01"
    assert named(rate, run="dvae") == run_name(config, "dvae")
    assert named(rate, run="d2it_b") != run_name(config, "d2it_b")
    # What only measuring decides leaves every training alone.
    assert named("evaluation.n=32", "data.photos.reference=64", run="d2it_l") == run_name(
        config, "d2it_l"
    )
    # Inputs reach through the chain.
    assert named("data.photos.train=999", run="d2it_l") != run_name(config, "d2it_l")
    assert latents_recipe(config, "dvae") != latents_recipe(
        load(overrides=["dvae_loss.kl_weight=1"]), "dvae"
    )


def test_equal_recipes_have_equal_digests_whatever_the_experiment_is_called():
    config = load()
    content = config.runs.content
    twin = replace(config.runs, content={**content, "twin": content["d2it_b"]})
    config = replace(config, runs=twin)
    assert run_recipe(config, "twin") == run_recipe(config, "d2it_b")
