"""What can be done with an exported folder: other settings, saved again, the Hub, its card."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import d2it
from d2it import cli
from d2it.config import load
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.latents.cache import Latents
from d2it.runs import provenance
from d2it.sampling import exported as module
from d2it.sampling.exported import Exported
from d2it.sampling.model_card import metadata
from tests.commands import command
from tests.exported import export_random
from tests.fake_results import write_evaluation
from tests.hub import Hub, serving
from tests.tiny_world import enter

WEIGHTS = ["dvae.safetensors", "grain.safetensors", "network.safetensors"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        export_random("exported")
        yield Path("exported")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Exported:
    return d2it.load(folder)


def same(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


# Settings


def test_the_sampler_is_exchanged(pipe: Exported, folder: Path) -> None:
    """In one call, for good, as an attribute, and by the command: the same images."""
    drawn = pipe.sample(n=2, sampler="dpm++", steps=4, guidance=1.5)
    assert not same(drawn, pipe.sample(n=2)) and pipe.sampling.sampler == "ddim"
    assert same(drawn, pipe.using(sampler="dpm++", steps=4, guidance=1.5).sample(n=2))
    other = d2it.load(folder)
    other.sampling, other.guidance = replace(other.sampling, sampler="dpm++", steps=4), 1.5
    assert same(drawn, other.sample(n=2))
    words = ["--sampler", "dpm++", "--steps", "4", "--guidance", "1.5", "--format", "packed"]
    words += ["--run", str(folder), "--seeds", "0-1", "--out", "other"]
    assert cli.main(["sample", *words]) == 0
    assert np.array_equal(np.load("other/images.npy"), drawn[0])


BAD = {
    "no sampler": ({"sampler": "euler"}, "choose ddpm, ddim or dpm"),
    "no steps": ({"steps": 0}, "not between 1 and 1000"),
    "guidance": ({"guidance": -1.0}, "guidance is -1.0, but must be at least 0"),
    "ratio": ({"ratio": 1.5}, "ratio is 1.5, but a share"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_settings_are_refused(case: str, pipe: Exported) -> None:
    settings, sentence = BAD[case]
    with pytest.raises(UserError, match=sentence):
        pipe.sample(**settings)


def test_classes_have_names_and_every_ratio_is_drawn(pipe: Exported) -> None:
    assert same(pipe.sample(label="flags"), pipe.sample(label=pipe.classes.index("flags")))
    shares = [pipe.sample(n=4, ratio=ratio)[1].mean() for ratio in (0.0, 0.3, 1.0)]
    assert shares[0] == 0 and shares[2] == 1


def test_a_folder_has_the_thresholds_of_every_ratio(pipe: Exported, folder: Path) -> None:
    latents = Latents.open("data/smoke/latents/dvae_classes", "train")
    for ratio in (0.0, 0.3, 0.5, 1.0):
        assert pipe.cuts(ratio) == pytest.approx(latents.cuts(ratio))
    assert pipe.cuts() == pipe.cuts(0.5) and pipe.using(ratio=0.2).cuts() == pipe.cuts(0.2)
    alone = d2it.load(folder)
    alone.header = replace(alone.header, quantiles=None)
    with pytest.raises(UserError, match="thresholds of ratio 0.5 alone, not of 0.3"):
        alone.cuts(0.3)


# By name, and as one picture


@pytest.fixture
def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """As if the folder came with the package, under a name that no folder here has."""
    shutil.copytree(folder, tmp_path / "weights" / "tiny64")
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "weights")
    return "tiny64"


def test_what_comes_with_the_package_has_a_name(pipe: Exported, shipped: str) -> None:
    assert same(d2it.load(shipped).sample(n=2, ratio=0.3), pipe.sample(n=2, ratio=0.3))
    with pytest.raises(UserError, match="no exported folder tiny63: make one .*, or name tiny64, "):
        d2it.load("tiny63")


def test_a_sheet_has_a_row_for_each_class(pipe: Exported, shipped: str, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    words = ["sample", "--run", shipped, "--ratio", "0.3", "--sheet", str(path)]
    done = command(*words)
    assert done.returncode == 0 and f"Rows, from above: {', '.join(pipe.classes)}." in done.stdout
    assert f"{path} is ready: 72 images in " in done.stdout and "At ratio 0.3: " in done.stdout
    pixels, (images, _) = np.array(Image.open(path)), pipe.sample(n=72, ratio=0.3)
    assert pixels.shape == (9 * 72 - 8, 8 * 72 - 8, 3)
    for i in (0, 13, 71):  # image i is of class i mod 9, the (i div 9)th of it
        top, left = 72 * (i % 9), 72 * (i // 9)
        assert np.array_equal(pixels[top : top + 64, left : left + 64], images[i])
    before = path.read_bytes()
    for more, sentence in (
        ([], "is there already: name another picture"),
        (
            ["--sheet", "sheet.jpg"],
            "sheet.jpg is to be a picture: give it a name that ends in .png",
        ),
        (["--out", "x"], "leave out --out and shares"),
        (["--weights", "raw"], "tiny64 is exported, so its weights"),
    ):
        done = command(*words, *more)
        assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert path.read_bytes() == before


# Saved again


def test_a_saved_folder_is_the_same(pipe: Exported, folder: Path, tmp_path: Path) -> None:
    """But for arguments of networks that it names though they are the usual ones."""
    pipe.save(tmp_path / "copy")
    d2it.load(tmp_path / "copy").save(tmp_path / "again")
    for name in [*WEIGHTS, "README.md", "pipeline.json"]:
        before = folder if name != "pipeline.json" else tmp_path / "copy"
        assert (tmp_path / "again" / name).read_bytes() == (before / name).read_bytes(), name
    assert same(d2it.load(tmp_path / "again").sample(n=2), pipe.sample(n=2))


def test_settings_are_saved(pipe: Exported, tmp_path: Path) -> None:
    other = pipe.using(ratio=0.2, sampler="dpm++", steps=4, guidance=1.5)
    other.save(tmp_path / "other")
    again = d2it.load(tmp_path / "other")
    assert same(again.sample(n=2), other.sample(n=2))
    assert again.cuts() == other.cuts() != pipe.cuts() and again.maps.learned == "random"
    line = "Share of fine regions: 0.2. Sampling: dpm++, 4 steps, guidance 1.5."
    assert line in (tmp_path / "other" / "README.md").read_text()
    again.using(steps=2).save(tmp_path / "other")  # over an export
    assert d2it.load(tmp_path / "other").sampling.steps == 2
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="taken holds something else: name a new folder"):
        pipe.save(tmp_path / "taken")
    assert {path.name for path in tmp_path.iterdir()} == {"other", "taken"}


UNREADABLE = {
    "sampling.steps": (2000, "at most diffusion.timesteps, 1000): change that, and export it"),
    "sampling.block": (4097, "at most 4096): set a smaller sampling.block, and export it again."),
    "diffusion.timesteps": (4001, "at most 4000): set a smaller diffusion.timesteps, and"),
}


@pytest.mark.parametrize("setting", UNREADABLE)
def test_what_could_not_be_read_is_not_saved(setting: str, folder: Path, tmp_path: Path) -> None:
    (part, name), (value, cure) = setting.split("."), UNREADABLE[setting]
    pipe = d2it.load(folder)
    setattr(pipe, part, replace(getattr(pipe, part), **{name: value}))
    with pytest.raises(UserError) as raised:
        pipe.save(tmp_path / "bad")
    told = str(raised.value)
    assert told.startswith(f"This cannot be exported ({setting} is {value}, but must be")
    assert cure in told and told.endswith("export it again.") and not any(tmp_path.iterdir())


def test_the_documents_lines(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "my-d2it")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict = {}
    exec("".join(blocks), names)
    assert same((names["images"], names["maps"]), d2it.load("my-fast-d2it").sample(n=4))


# The Hub


def test_the_card_has_what_the_hub_reads(folder: Path) -> None:
    known = ModelCard.load(folder / "README.md").data
    assert known.library_name == "d2it" and known.license == "other"
    assert known.pipeline_tag == "unconditional-image-generation" and known.datasets == ["emoji"]
    assert {"d2it", "class-conditional", "arxiv:2504.09454"} <= set(known.tags)
    assert known.metrics is None  # not evaluated yet


HEADER = {
    "run": "dit_b",
    "kind": "dit",
    "classes": [],
    "networks": {"network": {"sha256": "a"}},
}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "[]",
        lambda text: "{",
        lambda text: '{"evaluations": []}',
        lambda text: '{"evaluations": {"main": {}}}',
        lambda text: re.sub('"main": .*', '"main": {}}}', text, flags=re.DOTALL),
        lambda text: text.replace('"fid": 2', '"fid": 3'),
    ],
)
def test_no_card_shows_a_damaged_evaluation(change, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(overrides=["scale=smoke"])
    run, images = run_of(config, "dit_b"), {"name": "emoji", "licence": "MIT"}
    write_evaluation(config, "dit_b")
    text = run.evaluation.read_text().replace('"n":', '"weights_sha256": "a", "n":')
    run.evaluation.write_text(text)
    provenance.record(run)
    assert "fid" in metadata(config, HEADER, images)
    assert change(text) != text
    run.evaluation.write_text(change(text))
    with pytest.raises(UserError, match=r"dit_b\.json .*make it again with `d2it evaluate dit_b"):
        metadata(config, HEADER, images)


PROGRAM = """
import json, sys
import d2it
from d2it.errors import UserError

told = {}
for name in sys.argv[1:]:
    try:
        images, maps = d2it.load(name).sample(n=2)
        told[name] = [int(images.sum()), int(maps.sum())]
    except UserError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def ask(hub: Hub, cache: Path, *names: str, **environment: str) -> dict[str, str]:
    known = {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env=os.environ | known | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_folder_of_the_hub(pipe: Exported, folder: Path, tmp_path: Path) -> None:
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    images, maps = pipe.sample(n=2)
    pickled = b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."
    header = json.loads(sound["pipeline.json"])
    with serving() as hub:
        hub.repositories = {
            "me/sound": sound | {"pytorch_model.bin": pickled, "custom.py": b"1 / 0"},
            "me/other": {"config.json": b"{}", "pytorch_model.bin": pickled},
            "me/lacking": {"pipeline.json": sound["pipeline.json"]},
            "me/pickled": sound | {"network.safetensors": pickled},
            "me/newer": sound | {"pipeline.json": json.dumps(header | {"version": 9}).encode()},
            "me/vast": sound,
        }
        hub.claimed = {"me/vast": 10**12}
        found = ask(hub, tmp_path, "me/sound", "me/none", "me/other", "me/lacking", "me/pickled",
                    "me/newer", "me/vast")  # fmt: skip
        assert found.pop("me/sound") == [int(images.sum()), int(maps.sum())]
        for name, sentence in {
            "me/none": "me/none of the Hub cannot be used (there is none of that name",
            "me/other": "(it is no exported run of d2it, or not all of one: name another)",
            "me/lacking": "(it is no exported run of d2it, or not all of one: name another)",
            "me/pickled": "is damaged (it is missing, or not of the recorded size)",
            "me/newer": "with format 9, and this one reads 2 to 3): install that version.",
            "me/vast": "has 1000000000000 bytes where at most",
        }.items():
            assert sentence in found[name] and found[name].isprintable(), found[name]
        asked = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /me/")}
        assert asked == {"pipeline.json", *WEIGHTS} and not Path("owned").exists()
        # As it was fetched before, without a network; and nothing else.
        hub.asked.clear()
        alone = ask(hub, tmp_path, "me/sound", "me/late", HF_HUB_OFFLINE="1")
        assert alone["me/sound"] == [int(images.sum()), int(maps.sum())] and not hub.asked
        assert "cannot be reached and was not fetched before" in alone["me/late"]


def test_without_the_hubs_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"me/mine is no folder here, .* 'd2it\[hub\]'"):
        d2it.load("me/mine")
