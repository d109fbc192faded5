"""Thresholds reach the ratio asked for and are tied to what they were measured on."""

import json
import math
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from d2it.cli import main
from d2it.commands.calibrate import print_foreign_shares
from d2it.config import load, paths
from d2it.config.load import compose
from d2it.config.recipe import regions_of
from d2it.config.run import runs_of
from d2it.errors import UserError
from d2it.files import read_sealed, write_sealed
from d2it.grains import calibrate as calibrate_module
from d2it.grains.calibrate import CELLS, calibrate, count, quantile_table
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import fine_share, grain_map, neighbour_agreement
from d2it.grains.overlay import COARSE, FINE, beside, overlay
from d2it.grains.thresholds import Thresholds, constant_cuts, cuts_of, save, thresholds_of
from d2it.images import packed
from d2it.images.packed import open_images
from d2it.images.prepare import prepare
from d2it.sources.fetch import source_path
from tests.commands import command
from tests.forked import Forked

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
TOP = math.log(256)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The embedded photographs, prepared and calibrated; tests run beside them."""
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = load(overrides=["scale=smoke"])
        photos = replace(config.data["photos"], train=350, test=210)
        other = replace(
            photos, train=28, test=0, crop=(0.2, 0.3), classes=0, thresholds_from="photos"
        )
        config = replace(config, data=config.data | {"photos": photos, "other": other})
        assert prepare(config, "photos") and calibrate(config, "photos")
        yield config


def maps_of(config, split: str, ratio: float) -> torch.Tensor:
    images = open_images(config, "photos", split)
    pixels = torch.from_numpy(images[np.arange(len(images))])
    return grain_map(entropy_map(pixels, 8), cuts_of(config, "photos", 8, ratio))


def test_ratios_are_reached_on_photographs(calibrated):
    for ratio in RATIOS:
        assert fine_share(maps_of(calibrated, "train", ratio)) == pytest.approx(ratio, abs=0.002)
        assert fine_share(maps_of(calibrated, "test", ratio)) == pytest.approx(ratio, abs=0.03)
    assert neighbour_agreement(maps_of(calibrated, "train", 0.5)) > 0.7  # 0.5 if incoherent


def test_three_grains_reach_their_shares(calibrated):
    map = maps_of(calibrated, "train", [0.2, 0.3])
    shares = [(map == grain).double().mean().item() for grain in range(3)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.002)


def test_constant_maps_need_no_thresholds(calibrated):
    assert constant_cuts(0.0) == cuts_of(calibrated, "absent", 8, 0.0) == [math.inf]
    assert constant_cuts(1.0) == cuts_of(calibrated, "absent", 8, 1.0) == [-math.inf]
    assert constant_cuts([1.0, 0.0]) == [-math.inf, math.inf]
    assert constant_cuts(0.5) is None and constant_cuts([0.5, 0.0]) is None
    assert thresholds_of(calibrated, "photos", 8).cut(1.0) == [-math.inf]
    assert (
        maps_of(calibrated, "test", 1.0).min() == 1 and maps_of(calibrated, "test", 0.0).max() == 0
    )


@pytest.mark.parametrize("regions", [1, 7, 1000, 100_000])
def test_the_histogram_gives_the_quantiles(regions):
    entropy = np.random.default_rng(0).gamma(9, 0.3, regions).clip(0, TOP).astype(np.float32)
    table = np.array(quantile_table(count(entropy, TOP), TOP, 1000))
    assert (np.diff(table) >= 0).all()
    lower, upper = (
        np.quantile(entropy, np.linspace(0, 1, 1001), method=method)
        for method in ("inverted_cdf", "higher")
    )
    width = 1.01 * TOP / CELLS
    assert (table >= np.minimum(lower, upper) - width).all()
    assert (table <= np.maximum(lower, upper) + width).all()


def test_histograms_of_blocks_add_up():
    entropy = np.random.default_rng(1).uniform(0, TOP, 1000).astype(np.float32)
    blocks = sum(count(block, TOP) for block in np.array_split(entropy, 7))
    assert np.array_equal(blocks, count(entropy, TOP)) and blocks.sum() == 1000


def test_tied_regions_do_not_break_the_table():
    entropy = np.concatenate([np.full(900, 1.662), np.linspace(2, 3, 100)]).astype(np.float32)
    table = quantile_table(count(entropy, TOP), TOP, 1000)
    assert table[500] == pytest.approx(1.662, abs=1e-4) and table[950] == pytest.approx(
        2.5, abs=0.02
    )


def test_a_killed_calibration_goes_on_with_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packed, "FILE_BYTES", 3 * 64**2 * 20)
    monkeypatch.setattr(calibrate_module, "UNIT", 8)
    settings = compose(["data.photos.train=56", "data.photos.test=0"])
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    config = load("params.yaml")
    assert prepare(config, "photos") and calibrate(config, "photos", processes=2)
    path = paths.thresholds(config, "photos")
    wanted = path.read_bytes()
    path.unlink()
    words = ["calibrate", "photos", "--params", "params.yaml", "--processes", "1"]

    def counted() -> list[Path]:
        return list(path.parent.glob(".thresholds.json.*.parts/train-*"))

    killed = Forked("tests.slow_calibration", *words)
    deadline = time.monotonic() + 60
    while len(counted()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    assert killed.end().returncode == -signal.SIGKILL
    assert 2 <= len(counted()) < 7 and not path.exists()
    done = command(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == wanted and not list(path.parent.glob(".*"))


def test_what_the_thresholds_of_another_data_set_give_is_said(calibrated, capsys):
    others = thresholds_of(calibrated, "other", 8)
    assert [others.above(others.cut(r)[0]) for r in RATIOS] == pytest.approx(RATIOS, abs=1e-3)
    prepare(calibrated, "other")
    calibrate(calibrated, "other")
    print_foreign_shares(calibrated, "photos")
    assert capsys.readouterr().out == ""
    print_foreign_shares(calibrated, "other")
    said = capsys.readouterr().out
    begins = "With the thresholds of photos, the shares of fine regions of 8 px are: "
    assert said.startswith(begins)
    images = open_images(calibrated, "other", "train")
    entropy = entropy_map(torch.from_numpy(images[np.arange(28)]), 8)
    for ratio, told in re.findall(r"(\S+) gives (\d\.\d+)", said):
        share = fine_share(grain_map(entropy, cuts_of(calibrated, "photos", 8, float(ratio))))
        assert float(told) == pytest.approx(share, abs=0.003)
    shutil.rmtree(paths.images(calibrated, "other").parent)


def test_thresholds_round_trip_and_calibrating_again_changes_nothing(calibrated):
    path = paths.thresholds(calibrated, "photos")
    before = path.read_bytes()
    assert not calibrate(calibrated, "photos")
    assert path.read_bytes() == before
    stored = thresholds_of(calibrated, "photos", 8)
    assert stored.regions == 350 * 64 and len(stored.quantiles) == 1001
    save(path, [stored, thresholds_of(calibrated, "photos", 16)])
    assert path.read_bytes() == before
    path.unlink()
    assert calibrate(calibrated, "photos")
    assert path.read_bytes() == before


def test_one_file_holds_every_region_size_that_a_dvae_asks_for(calibrated):
    path = paths.thresholds(calibrated, "photos")
    both, table = path.read_bytes(), thresholds_of(calibrated, "photos", 8)
    assert regions_of(calibrated, "photos") == [8, 16]
    assert thresholds_of(calibrated, "photos", 16).regions == table.regions / 4
    runs = replace(calibrated.runs, dvae={"dvae": calibrated.runs.dvae["dvae"]})
    smaller = replace(calibrated, runs=runs)
    assert not calibrate(smaller, "photos")  # more than is asked for is no reason to measure
    path.unlink()
    assert calibrate(smaller, "photos") and path.read_bytes() != both
    # what a run records of its own table, and its recipe, do not see the others
    assert thresholds_of(smaller, "photos", 8).digest == table.digest
    few, many = runs_of(smaller), runs_of(calibrated)
    for recipe in ("recipe", "latents_recipe"):
        mine = getattr(few["dvae"], recipe)
        assert mine == getattr(many["dvae"], recipe)
        assert mine["inputs"] != getattr(many["dvae_three"], recipe)["inputs"]
    assert calibrate(calibrated, "photos") and path.read_bytes() == both


@pytest.mark.parametrize(("key", "value"), [("bins", 32), ("sigma", 0.02), ("grey_range", [0, 1])])
def test_thresholds_measured_otherwise_are_refused(calibrated, tmp_path, key, value):
    stored = read_sealed(paths.thresholds(calibrated, "photos"), made_by="")
    path = tmp_path / "photos" / "thresholds.json"
    path.parent.mkdir()
    write_sealed(path, stored | {key: value})
    with pytest.raises(UserError, match=rf"measured with {key} .*`d2it calibrate photos`"):
        Thresholds.load(path, region=8)
    write_sealed(path, {key: value for key, value in stored.items() if key != "dataset"})
    with pytest.raises(UserError, match="dataset is missing"):
        Thresholds.load(path, region=8)
    write_sealed(path, stored | {"tables": {"8": {"regions": 1}}})
    with pytest.raises(UserError, match="quantiles is missing"):
        Thresholds.load(path, region=8)
    write_sealed(path, stored | {"tables": {"8": stored["tables"]["8"]}})
    with pytest.raises(UserError, match="with regions of 8 px, but 16 is asked for"):
        Thresholds.load(path, region=16)


def test_thresholds_of_other_images_are_refused_unless_asked_for(calibrated):
    assert thresholds_of(calibrated, "other", 8) == thresholds_of(calibrated, "photos", 8)
    alone = replace(calibrated.data["other"], thresholds_from=None)
    config = replace(calibrated, data=calibrated.data | {"other": alone})
    with pytest.raises(UserError, match=r"other/thresholds\.json is missing.*d2it calibrate other"):
        thresholds_of(config, "other", 8)
    assert prepare(config, "other")
    path = paths.thresholds(config, "other")
    path.write_bytes(paths.thresholds(config, "photos").read_bytes())
    with pytest.raises(UserError, match="measured on other images than those of other"):
        thresholds_of(config, "other", 8)
    assert calibrate(config, "other")  # and so it is measured
    assert (
        thresholds_of(config, "other", 8).images_digest
        != thresholds_of(config, "photos", 8).images_digest
    )


def test_calibrating_what_was_not_prepared(calibrated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"manifest\.json is missing: make it with `d2it prepare"):
        calibrate(calibrated, "photos")
    with pytest.raises(UserError, match="has no data set 'photo'"):
        calibrate(calibrated, "photo")
    assert list(tmp_path.iterdir()) == []


def test_overlays_are_red_where_fine():
    image = np.full((32, 32, 3), 100, dtype=np.uint8)
    drawn = overlay(image, np.array([[0, 1], [1, 2]]), k=3).astype(int)
    assert drawn.shape == image.shape
    fine, coarse = drawn[24, 24], drawn[8, 8]
    assert fine[0] > fine[2] and coarse[2] > coarse[0]
    assert np.array_equal(drawn[8, 24], drawn[24, 8])
    assert (fine - coarse).tolist() == (0.4 * (FINE - COARSE)).tolist()
    assert beside([image, image]).shape == (32, 72, 3)


def test_grains_by_the_thresholds_of_a_data_set(calibrated, tmp_path, monkeypatch, capsys):
    photo, file = str(source_path("rocket")), paths.thresholds(calibrated, "photos").resolve()
    options = ["--factors", "8", "4", "--size", "64", "--json", "--thresholds", str(file)]
    monkeypatch.chdir(tmp_path)
    assert main(["grains", photo, *options]) == 0 and list(tmp_path.iterdir()) == []
    assert json.loads(capsys.readouterr().out)["maps"][0]["fine_share"] < 0.4  # mostly sky
    options[1:3] = ["32", "16"]
    assert main(["grains", photo, *options]) == 2
    assert "was measured with regions of 8, 16 px, but 32 is asked for" in capsys.readouterr().err
