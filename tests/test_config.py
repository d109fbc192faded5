"""The configuration is closed, typed and tells people what they meant.

Recipes see only what decides their numbers.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, get_origin

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from d2it.cli import main
from d2it.config import load
from d2it.config.check import numbers
from d2it.config.explain import digests, moved_runs, studied
from d2it.config.load import interpolated, params_folder
from d2it.config.run import run_of
from d2it.config.settings import walk
from d2it.errors import UserError
from tests.commands import command
from tests.composed import composed
from tests.forked import Forked

ROOT = Path(__file__).parents[1]
SCALES = (
    "smoke",
    "demo",
    "mini",
    "mini_cpu",
    "mini_cpu_short_grain",
    "mini_cpu_long",
    "mini_cpu_2048",
    "mini_cpu_photos",
    "paper",
)


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
        ("evaluation.n=1", "evaluation.n is 1, but must be at least 2"),
        ("training.dit.batch=0", "training.dit.batch is 0, but must be at least 1"),
        ("training.grain.images=-1", "training.grain.images is -1, but must be at least 1"),
        ("training.dvae.learning_rate=0", "is 0.0, but must be above 0"),
        ("training.dit.betas=[0.9,1]", "training.dit.betas is 1.0, but must be at least 0 and"),
        ("training.content.label_dropout=1", "but must be at least 0 and below 1"),
        ("training.dit.ema_half_life=-1", "must be at least 0"),
        ("training.dit.clip=0", "must be above 0"),
        ("dvae_loss.discriminator_learning_rate=0", "must be above 0"),
        ("dvae_loss.gan_start=9000", "but must be at most 6826: the discriminator"),
        ("model.window=5", "but must divide the 16 x 16 fine tokens"),
        ("model.dvae.discriminator_layers=0", "must be at least 1"),
        ("model.sizes.S.heads=0", "must be at least 1"),
        ("model.factors=[0,0]", "must be at least 1"),
        ("runs.dvae.dvae.factors=[8,2]", "must halve from coarse to fine"),
        ("data.photos.crop=[2,3]", "data.photos.crop is 2.0, but must be above 0 and at most 1"),
        ("data.photos.crop=[0.9,0.7]", "data.photos.crop is [0.9, 0.7], but must rise"),
        ("diffusion.timesteps=1", "must be at least 2"),
        ("diffusion.beta_start=0.5", "must not be above beta_end, 0.02"),
        ("diffusion.beta_end=1", "must be above 0 and below 1"),
        ("sampling.steps=0", "must be at least 1"),
        ("sampling.steps=2000", "must be at most diffusion.timesteps, 1000"),
        ("sampling.grain_steps=0", "must be at least 1"),
        ("sampling.eta=-1", "sampling.eta is -1.0, but must be at least 0 and at most 1"),
        ("sampling.guided_channels=5", "must be at most model.latent_channels, 4"),
        ("evaluation.metrics=[fyd]", "'fyd', which is no metric (did you mean 'fid'?)"),
        ("evaluation.seeds=[]", "needs at least one seed"),
        ("evaluation.neighbours=0", "must be at least 1"),
        ("sigma=0", "sigma is 0.0, but must be above 0"),
        ("bins=1", "must be at least 2"),
        ("quantiles=0", "must be at least 1"),
        ("runs.content.d2it_b.evaluations={main:{weights:raw,at:0.5}}", "asks for raw weights at"),
        ("runs.content.d2it_b.evaluations={main:{at:0}}", "must be above 0 and at most 1"),
        ("ratio=[0.2,0.3]", "ratio has 2 shares, but 2 grains need 1"),
        ("runs.dvae.dvae.ratios=[0.5]", "at ratio random, which its latents are not measured at"),
        ("ratio=0", "a constant map needs no grain transformer"),
        (
            "runs.content.d2it_b.ratio=0.7",
            "d2it_b.ratio is 0.7, but grain, which draws its maps, has 0.5",
        ),
        ("runs.grain.grain.ratio=0.7", "ratio is 0.5, but grain, which draws its maps, has 0.7"),
        ("ratio=1.0", "a constant map needs no grain transformer"),
        ("task.unconditional=ffhq", "points at data.ffhq, which is not part of this scale"),
        ("ratio", "is not an override: write key=value"),
        ("x=[a", "There is no setting 'x'"),
        ("scale@x=demo", "The configuration cannot be composed"),
    ],
)
def test_bad_overrides_get_one_sentence(override, sentence, tmp_path):
    done = command("config", "--write", "params.yaml", override, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert done.stdout == "" and not any(tmp_path.iterdir())


@pytest.mark.parametrize("scale", SCALES)
def test_every_setting_has_a_meaning_and_every_number_a_range(scale):
    for setting, value in walk(composed(f"scale={scale}")):
        assert setting.meaning
        chosen = get_origin(setting.type) is Literal
        ratio = {"ratio", "ratios"} & set(setting.name.split("."))  # check_ratio's
        assert setting.range or not numbers(value) or chosen or ratio, setting.name


@pytest.fixture
def explained(capsys):
    def explained(*words: str) -> list[str]:
        assert main(["config", "--explain", *words]) == 0
        return [line.strip() for line in capsys.readouterr().out.splitlines()]

    return explained


def test_a_setting_is_explained(explained):
    lines = explained("training.content.batch", "scale=smoke")
    assert lines[:4] == [
        "training.content.batch: 8",
        "images per step, over all processes",
        "a whole number, at least 1",
        "set by params/scale/smoke.yaml",
    ]
    runs = composed("scale=smoke").runs.content
    assert lines[4] == f"part of the identity of 8 of 18 runs: {', '.join(runs)}"


@pytest.mark.parametrize(
    ("words", "by"),
    [
        (["ratio"], "params/config.yaml"),
        (["ratio", "ratio=0.7"], "the command line"),
        (["ratio", "--params", str(ROOT / "params.yaml")], str(ROOT / "params.yaml")),
        (["runs.content.d2it_b.ratio"], "params/experiment/d2it_b.yaml, as ${ratio}"),
        (["runs.content.d2it_b.split"], "the schema, by default"),
        (["runs.dit.dit_b_s3.size", "runs.dit.dit_b.size=S", "scale=mini_cpu"], "the command line"),
        (["runs.dit.dit_b.evaluations.main.at", "scale=mini_cpu"], "the schema, by default"),
        (["data.photos.train", "scale=mini_cpu_2048"], "params/scale/mini_cpu.yaml"),
    ],
)
def test_what_sets_a_setting(words, by, explained):
    assert explained(*words)[3] == f"set by {by}"


def test_a_table_is_explained_as_yaml_and_an_unknown_setting_by_the_nearest(explained, capsys):
    header, *lines = explained("training.grain", "scale=smoke")
    assert header.startswith("training.grain: # ") and len(lines) == 16
    training = asdict(composed("scale=smoke").training.grain)
    assert yaml.safe_load("\n".join(lines)) == json.loads(json.dumps(training))
    for word, near in [
        ("training.grain.bach", "'training.grain.batch'"),
        ("learning_rate", "training.dvae.learning_rate or training.grain.learning_rate or "),
    ]:
        assert main(["config", "--explain", word]) == 2
        said = capsys.readouterr().err
        assert f"There is no setting {word!r} (did you mean {near}" in said
        assert said.count("\n") == 1


def test_what_decides_weights_is_told_from_what_does_not():
    """As an override of each setting would move the runs' names, without doing it."""
    study, config = studied(interpolated(["scale=smoke"])), composed("scale=smoke")
    known = {setting.name: (setting, value) for setting, value in walk(config)}

    def moved(name: str) -> set[str]:
        return set(moved_runs(study, *known[name]))

    every = set(digests(config))
    emoji = {"dvae_classes", "grain_classes", "dit_xl_classes", "d2it_xl_classes"}
    assert moved("seed") == moved("model.dvae.warm_start") == every
    assert moved("data.photos.crop") == every - emoji and moved("data.emoji.flip") == emoji
    assert moved("training.dvae.images") == every - config.runs.dvae.keys()  # through their latents
    assert moved("first_stage.r0") == {"d2it_b_r0"}  # which follows it
    assert moved("model.sizes.L.depth") == {"dit_l", "d2it_l"}
    for name in ("sampling.steps", "training.dit.images", "evaluation.n", "caption"):
        assert not moved(name)


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != "paper"])
def test_the_average_forgets_the_untrained_network(scale):
    for training in vars(composed(f"scale={scale}").training).values():
        assert 0 < training.ema_half_life <= 0.05 * training.images


def test_more_than_two_grains_are_a_ratio_each():
    three = ["model.factors=[16,8,4]", "ratio=[0.2,0.3]"]
    three += ["runs.dvae.dvae.ratios=[[0.2,0.3],[0,0],[1,0],[0,1],random]"]
    three += ["runs.dvae.dvae_classes.ratios=[[0.2,0.3],[0,1]]"]
    fixed = [f"runs.content.d2it_b_r{100 * r}.ratio=[{r},0]" for r in (0, 1)]
    elastic = [f"runs.content.d2it_b_elastic.evaluations.{label}=null" for label in ("r0", "r100")]
    config = composed("scale=smoke", *three, *fixed, *elastic)
    assert config.ratio == config.runs.grain["grain"].ratio == [0.2, 0.3]


def test_a_full_disk_and_a_path_below_a_file_get_one_sentence(tmp_path):
    full = Forked("d2it", "config", "--write", "p.yaml", cwd=tmp_path, limit=0).end()
    assert full.returncode == 2 and "The disk is full, or a quota" in full.stderr
    assert full.stderr.count("\n") == 1 and not any(tmp_path.iterdir())
    Path(tmp_path, "file").write_text("")
    for path in ("file/p.yaml", "file/below/p.yaml"):
        done = command("config", "--write", path, cwd=tmp_path)
        assert done.returncode == 2 and "check its permissions and its folders" in done.stderr
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("config --write " + "x" * 300, "has too long a name for this file system: choose a"),
        ("config --write " + "x" * 245, "has too long a name for this file system: choose a"),
        ("config --params " + "x" * 300, "has too long a name for this file system: choose a"),
        ("grains " + "x" * 300, "has too long a name for this file system: choose a shorter one."),
        ("config --params loop", "leads through a symlink back to itself: correct that link."),
        ("sample --run emoji64 --out loop/drawn", "leads through a symlink back to itself"),
    ],
)
def test_a_name_that_no_file_can_have_gets_one_sentence(words, sentence, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    done = command(*words.split(), cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "folder", "hole"])
def test_params_that_have_no_end_are_not_read(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "hole", "wb") as hole:
        hole.truncate(8 << 30)
    done = command("config", "--params", name, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{name} is no file of settings: name one of at most 4 MB." in done.stderr


def test_a_scale_drops_an_evaluation_that_it_inherits():
    runs = composed("scale=mini").runs.content
    assert set(runs["d2it_b_routing_s1"].evaluations) == {"main", "middle", "late"}
    runs = composed("scale=mini_cpu").runs.content
    assert set(runs["d2it_b_routing_s1"].evaluations) == {"main"}
    fewer = composed("scale=mini", "convergence.early=null")
    assert set(fewer.runs.content["d2it_b_classes"].evaluations) == {"middle", "main"}


@pytest.mark.parametrize("scale", SCALES)
def test_what_dvc_composes_is_what_we_compose(scale, tmp_path):
    """`dvc exp run -S` composes params/ by Hydra itself, without this package."""
    written = tmp_path / "params.yaml"
    compose_and_dump(
        str(written), str(params_folder()), None, "config", str(tmp_path), [f"scale={scale}"]
    )
    assert load(written) == composed(f"scale={scale}")


def test_unknown_experiment_is_named_with_the_nearest():
    done = command("train", "d2it_bb")
    assert done.returncode == 2
    assert "There is no experiment 'd2it_bb'" in done.stderr and "d2it_b" in done.stderr
    assert "Traceback" not in done.stderr


def test_params_file_that_is_missing_or_damaged(tmp_path):
    damaged = tmp_path / "params.yaml"
    damaged.write_text("ratio: [0.5")
    for path, sentence in [(tmp_path / "none.yaml", "is missing"), (damaged, "is not YAML")]:
        done = command("config", "--params", str(path))
        assert done.returncode == 2 and sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_composing_needs_no_torch():
    program = (
        "import sys; from d2it.config import load; load(); "
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_written_configuration_reads_back_as_itself(tmp_path):
    assert command("config", "--write", str(tmp_path / "p.yaml"), "ratio=0.7").returncode == 0
    assert load(tmp_path / "p.yaml") == load(overrides=["ratio=0.7"])
    with pytest.raises(UserError, match="already composed"):
        load(tmp_path / "p.yaml", ["ratio=0.3"])


def test_recipes_see_what_decides_their_numbers_and_nothing_else():
    config = load()

    def named(*overrides: str, run: str) -> str:
        return run_of(load(overrides=list(overrides)), run).id

    # The one DVAE serves every ratio, so the ratio is not in it; D²iT-B at the main ratio has it.
    assert named("ratio=0.7", run="dvae") == run_of(config, "dvae").id
    assert named("ratio=0.7", run="d2it_b") != run_of(config, "d2it_b").id
    assert named("ratio=0.7", run="d2it_b_r100") == run_of(config, "d2it_b_r100").id
    # A longer training extends the run; machines' settings are not science.
    machines = ["save_images=64", "compile=true", "checkpointing=true"]
    longer = [f"training.content.{setting}" for setting in ("images=12800", *machines)]
    assert named(*longer, run="d2it_b") == run_of(config, "d2it_b").id
    # The transformers' settings are invisible to the DVAE and visible to their own runs.
    rate = "training.content.learning_rate=0.01"
    assert named(rate, run="dvae") == run_of(config, "dvae").id
    assert named(rate, run="d2it_b") != run_of(config, "d2it_b").id
    # What only measuring decides leaves every training alone.
    assert (
        named("evaluation.n=32", "data.photos.reference=64", run="d2it_l")
        == run_of(config, "d2it_l").id
    )
    # Inputs reach through the chain.
    assert named("data.photos.train=999", run="d2it_l") != run_of(config, "d2it_l").id
    assert (
        run_of(config, "dvae").latents_recipe
        != run_of(composed("dvae_loss.kl_weight=1"), "dvae").latents_recipe
    )


def test_equal_recipes_have_equal_digests_whatever_the_experiment_is_called():
    config = load()
    content = config.runs.content
    twin = replace(config.runs, content={**content, "twin": content["d2it_b"]})
    config = replace(config, runs=twin)
    assert run_of(config, "twin").recipe == run_of(config, "d2it_b").recipe
