"""The data set `emoji`: its table, its pixels, and the sentences without its pictures."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2it import cli
from d2it.config import load, paths
from d2it.config.listed import is_listed
from d2it.config.recipe import emoji_table, images_recipe
from d2it.config.schema import Dataset
from d2it.cost.plan import missing
from d2it.errors import UserError
from d2it.files import matches
from d2it.images.emoji import emoji_collection, emoji_groups, read_table
from d2it.images.packed import open_images
from d2it.images.prepare import prepare, problems_file
from d2it.report.figures import class_names
from d2it.sources.fetch import weights_file
from d2it.sources.table import find_source
from tests.composed import composed
from tests.tiny_world import enter
from tools import emoji_table as tool

OVERRIDES = [
    "scale=smoke",
    "task.unconditional=emoji",
    *(f"data.emoji.{split}=null" for split in ("train", "test")),
]
EMOJI = Dataset(source="emoji", size=64, classes=9)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("emoji"), patch)
        assert prepare(load(overrides=OVERRIDES), "emoji", 1)
        yield


def test_the_wheel_is_the_listed_file_and_the_table_is_of_it():
    source = find_source("twemoji")
    path = weights_file("twemoji")
    assert path.stat().st_size == source.bytes and matches(path, source.sha256)
    rows = read_table()
    assert len({row.codepoints for row in rows}) == len(rows) == 1880
    assert emoji_groups() == list(tool.GROUPS.values())
    for split, low, high in (("train", 70, 330), ("test", 9, 50)):
        groups = [row.group for row in rows if row.split == split]
        counts = [groups.count(group) for group in emoji_groups()]
        assert all(low < count < high or count == low for count in counts), counts


def test_no_held_out_picture_is_nearly_one_that_is_trained_on():
    rows = read_table()
    emoji = [tool.Emoji(row.codepoints, row.group) for row in rows]
    pixels, out = tool.pixels_of(emoji), np.array([row.split == "test" for row in rows])
    for some in (pixels, pixels[:, :, ::-1]):
        assert tool.distances(pixels[out], some[~out]).min() >= tool.NEAR
    concepts = [
        {e.concept for e, o in zip(emoji, out, strict=True) if o == side} for side in (0, 1)
    ]
    assert not concepts[0] & concepts[1]
    assert tool.splits(emoji, tool.families(emoji, pixels)) == [row.split for row in rows]


def test_the_tool_reads_unicodes_listing(tmp_path, monkeypatch):
    listing = tmp_path / "emoji-test.txt"
    listing.write_text(
        "# group: People & Body\n"
        "1F44B 1F3FB ; fully-qualified # with a skin tone\n"
        "1F468 200D 1F680 ; fully-qualified # man astronaut\n"
        "1F469 200D 1F680 ; fully-qualified # woman astronaut\n"
        "# group: Symbols\n"
        "00A9 FE0F ; fully-qualified # copyright\n"
        "00A9 ; unqualified # copyright\n"
        "# group: Component\n"
        "1F9B0 ; fully-qualified # red hair\n"
        "# group: Flags\n"
        "1F1F3 1F1F4 ; fully-qualified # Norway\n"
        "1F1F8 1F1EF ; fully-qualified # Svalbard: a copy\n"
    )
    monkeypatch.setattr(tool, "TABLE", tmp_path / "emoji.csv")
    monkeypatch.setattr("sys.argv", ["emoji_table", str(listing)])
    tool.main()
    rows = list(csv.reader(tool.TABLE.open()))
    assert [row[:2] for row in rows[1:]] == [
        ["1f468-200d-1f680", "people"],
        ["1f469-200d-1f680", "people"],
        ["a9", "symbols"],
        ["1f1f3-1f1f4", "flags"],
    ]
    assert rows[1][2] == rows[2][2]  # the same work
    assert is_listed(tool.TABLE)


def test_packed_pixels_are_on_white_and_labelled(packed: None) -> None:
    config = load(overrides=OVERRIDES)
    images = open_images(config, "emoji", "train")
    assert (len(images), len(open_images(config, "emoji", "test"))) == (1664, 216)
    assert images.classes == emoji_groups() == class_names(config, "emoji")
    names = [
        item.name for item in emoji_collection(EMOJI, config.seed, "emoji").splits["train"].items
    ]
    japan = next(i for i, name in enumerate(names) if name.endswith("1f1ef-1f1f5.png"))
    pixels = images[np.array([japan])][0]
    assert images.classes[images.labels[japan]] == "flags"
    assert (pixels[:8] == 255).all() and (pixels[-8:] == 255).all()  # was transparent
    red, green, blue = pixels[32, 32].tolist()
    assert red > 180 and green < 60 and blue < 90
    assert not problems_file(config, "emoji").exists()  # no picture twice
    assert not prepare(config, "emoji", 1)


def test_fewer_are_the_first_of_more_and_of_every_group():
    whole = emoji_collection(EMOJI, 0, "emoji").splits
    few = emoji_collection(replace(EMOJI, train=64, test=32, classes=0), 0, "emoji")
    assert few.splits["train"].items == whole["train"].items[:64]
    assert few.splits["test"].items == whole["test"].items[:32]
    assert set(whole["train"].labels[:128]) == set(range(9))
    assert few.classes == [] and not few.splits["train"].labels.any()
    assert emoji_collection(EMOJI, 1, "emoji").splits["train"].items != whole["train"].items


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": 1665}, "data.emoji.train is 1665, but there are 1664 such emoji: lower it"),
        ({"test": 217}, "data.emoji.test is 217, but there are 216"),
        ({"crop": (0.7, 1.0)}, "leave it at"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        emoji_collection(replace(EMOJI, **changes), 0, "emoji")


@pytest.mark.parametrize(
    "text", ["codepoints,group\n1f600,smileys\n", "codepoints,group,split\nffff,flags,train\n"]
)
def test_a_damaged_table_is_one_sentence(tmp_path, monkeypatch, text):
    table = tmp_path / "emoji.csv"
    table.write_text(text)
    monkeypatch.setattr("d2it.images.emoji.emoji_table", lambda: table)
    with pytest.raises(UserError, match=r"emoji\.csv is damaged .*restore it"):
        emoji_collection(EMOJI, 0, "emoji")


def test_the_recipe_knows_the_table():
    config = load(overrides=OVERRIDES)
    found = images_recipe(config, "emoji")["sources"]
    assert found["twemoji"] == find_source("twemoji").sha256
    assert matches(emoji_table(), found["table"])
    assert "table" not in images_recipe(config, "photos")["sources"]


def test_without_the_wheel_and_the_network_one_sentence_says_where_to_fetch_it(
    tmp_path, monkeypatch, capsys
):
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("D2IT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("UV_NO_CACHE", "1")
    settings = load(overrides=OVERRIDES)
    assert "The images of emoji are missing: `d2it fetch emoji`." in missing(settings, ["emoji"])
    for words in (["prepare", "emoji", *OVERRIDES], ["fetch", "emoji"]):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "`d2it fetch twemoji`" in said, said
    assert "on another machine and copy its" in said
    monkeypatch.setenv("D2IT_OFFLINE", "1")
    assert cli.main(["fetch", "emoji"]) == 2
    assert "D2IT_OFFLINE" in capsys.readouterr().err
    assert [p for p in Path().rglob("*") if p.is_file()] == []
    assert not paths.images(settings, "emoji").parent.exists()


@pytest.mark.parametrize("scale", ["smoke", "demo", "mini", "mini_cpu", "emoji64"])
def test_no_first_stage_is_measured_on_more_pictures_than_are_held_out(scale):
    config = composed(f"scale={scale}")
    most = config.data["emoji"].test or 216
    asked = [
        dvae.n or config.evaluation.n for dvae in config.runs.dvae.values() if dvae.data == "emoji"
    ]
    assert asked and max(asked) <= most
