"""`d2it grains`: the grain map of any photograph."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2it.cli import main
from d2it.sources.fetch import source_path
from tests.commands import command


def test_grains_of_a_photograph(tmp_path):
    photo = str(source_path("rocket"))
    options = ["--ratio", "0.3", "--ratio", "0.7", "--out", "r.png", "--json"]
    done = command("grains", photo, *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["region"] == 16
    shares = [entry["fine_share"] for entry in found["maps"]]
    assert shares == pytest.approx([0.3, 0.7], abs=0.005)
    assert np.mean(found["maps"][1]["map"]) == pytest.approx(shares[1])
    with Image.open(tmp_path / "r.png") as drawn:
        assert drawn.size == (3 * 256 + 2 * 8, 256)


RGB = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
ODD = {
    "grey.png": Image.fromarray(RGB[..., 0]),
    "bits.png": Image.fromarray(RGB).convert("1"),
    "palette.gif": Image.fromarray(RGB).convert("P"),
    "transparent.png": Image.fromarray(np.dstack([RGB, RGB[..., :1]])),
    "cmyk.jpg": Image.fromarray(RGB).convert("CMYK"),
    "sixteen.png": Image.fromarray(RGB[..., 0].astype(np.uint16) * 257),
    "turned.jpg": Image.fromarray(RGB),
    "smallest.png": Image.fromarray(RGB[:8, :8]),
    "strip.png": Image.fromarray(RGB[:8].repeat(40, axis=1)),
    "black.png": Image.fromarray(0 * RGB),
    "tiny.png": Image.fromarray(RGB[:7]),
    "float.tif": Image.fromarray(RGB[..., 0].astype(np.float32)),
    "huge.png": Image.new("1", (20_000, 10_000)),
}
REFUSED = {
    "tiny.png": "56 x 7 px is too small, 8 are needed",
    "float.tif": "floating-point pixels have no known range",
    "huge.png": "more than 179 million pixels",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_photographs_work_or_get_one_sentence(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    ODD[name].save(name, **({"exif": exif} if name == "turned.jpg" else {}))
    options = ["--ratio", "0.3", "--ratio", "0.5", "--out", "overlay.png", "--json"]
    if name in REFUSED:
        assert main(["grains", name, *options]) == 2
        error = capsys.readouterr().err
        assert REFUSED[name] in error and error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == [name]
        return
    assert main(["grains", name, *options]) == 0
    maps = json.loads(capsys.readouterr().out)["maps"]
    flat = name == "black.png"  # no region is above any other
    assert [entry["fine_share"] for entry in maps] == pytest.approx(
        [0, 0] if flat else [0.3, 0.5], abs=0.02
    )
    with Image.open("overlay.png") as drawn:
        assert drawn.size == (3 * 256 + 2 * 8, 256)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.png"], "There is no file nothing.png"),
        (["text.png"], "text.png cannot be read as an image"),
        (["text.png", "--ratio", "1.2"], "a share of regions lies in [0, 1]"),
        (["text.png", "--ratio", "0.2,0.2"], "--ratio has 2 shares, but 2 grains need 1"),
        (["text.png", "--factors", "16", "4"], "must halve from coarse to fine"),
        (["text.png", "--size", "100"], "must be a multiple of the region of 16"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("not a picture")
    assert main(["grains", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]
