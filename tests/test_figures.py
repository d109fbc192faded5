"""Figures show measured and published points, say what is missing, and are byte-stable."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2it.config import paths
from d2it.config.run import run_of
from d2it.config.study import FIGURES, load_study
from d2it.errors import UserError
from d2it.images.packed import write_manifest
from d2it.report.figures import (
    class_names,
    colours,
    curve_points,
    doubled,
    draw_ratios,
    draw_samples,
    ratio_points,
    read_gallery,
    write_figure,
)
from tests.composed import WHOLE, composed
from tests.fake_results import write_gallery, write_results


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return composed(*WHOLE)


@pytest.fixture(scope="module")
def study():
    return load_study()


def test_figure_files_are_equal_on_a_second_run(config, study):
    write_results(config, fid=4.0)
    write_gallery(config, "d2it_l", "one_map", 8, shared=True)
    write_gallery(config, "d2it_xl_classes", "main", 16, shared=False)
    for name in FIGURES:
        written = write_figure(study, name, config)
        assert [path.suffix for path in written] == [".png", ".svg"]
        before = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in write_figure(study, name, config)] == before
        picture = Image.open(written[0])
        assert picture.width > 900 and np.asarray(picture).std() > 5
        assert "<svg" in written[1].read_text()
        assert "dc:date" not in written[1].read_text()


def test_points_of_figure_5_are_those_of_the_evaluations(config, study):
    write_results(config)
    points = ratio_points(study.figure_5, config)
    assert len(points) == 12
    for point in points.to_dict("records"):
        run = point["run"].rpartition("-")[0]
        found = json.loads(paths.evaluation(config, run).read_text())["evaluations"]
        values = [one["metrics"].get(point["metric"]) for one in found.values()]
        assert point["value"] in values
    fid = points[points["metric"] == "fid"]
    assert sorted(fid["ratio"]) == [0.0, 0.3, 0.5, 0.7, 0.9, 1.0]
    assert set(points[points["metric"] == "rfid"]["run"]) == {points["run"].iloc[1]}  # one DVAE


def test_where_two_runs_have_one_ratio_the_first_is_shown_and_it_is_said(config, study):
    other = composed(*WHOLE, "ratio=0.7")
    write_results(other)
    points = ratio_points(study.figure_5, other)
    fid = points[points["metric"] == "fid"]
    assert sorted(fid["ratio"]) == [0.0, 0.3, 0.7, 0.9, 1.0]
    shown = fid[fid["ratio"] == 0.7]["run"].item()
    assert shown.rpartition("-")[0] == "d2it_b"
    figure, said = draw_ratios(study.figure_5, other)
    assert "At r = 0.7 d2it_b stands for d2it_b_r70 too." in said
    assert "There is none of ours at r = 0.5." in said
    assert not any(axes.collections[1:] for axes in figure.axes)  # error bars; no band
    assert not doubled(study.figure_5, config)


def test_with_constant_maps_figure_3_says_so(config, study):
    constant = replace(config.runs.content["d2it_l"], ratio=1.0)
    other = replace(config, runs=replace(config.runs, content={"d2it_l": constant}))
    assert draw_samples(study.figure_3, other)[1] == ["Every map of d2it_l is the same at r = 1."]
    with pytest.raises(UserError, match="d2it evaluate d2it_l"):
        draw_samples(study.figure_3, config)


def test_classes_of_figure_4_have_names(config, study):
    assert class_names(config, "photos")[:2] == ["astronaut", "cat"]  # of data/sources.csv
    write_gallery(config, "d2it_xl_classes", "main", 3, shared=False)
    folder = paths.images(config, "emoji")
    folder.mkdir(parents=True)
    header = {"size": 64, "classes": ["ant", "bee"], "recipe_digest": ""}
    write_manifest(folder, header, splits={})
    figure, _ = draw_samples(study.figure_4, config)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["ant", "bee", "class 2"]


def test_curves_of_figure_6_run_along_the_training(config, study):
    write_results(config)
    points = curve_points(study.figure_6, config)
    assert len(points) == 6 * 3
    lengths = {run_of(config, run).training.images for run in config.runs.dit}
    for _, curve in points.groupby("run"):
        assert list(curve["images"]) == sorted(set(curve["images"]))
        assert curve["images"].iloc[-1] in lengths


def test_missing_evaluations_leave_points_out_and_missing_runs_are_named(config, study):
    content = {name: run for name, run in config.runs.content.items() if name == "d2it_b"}
    smaller = replace(config, runs=replace(config.runs, content=content, dit={}))
    assert ratio_points(study.figure_5, smaller).empty
    write_results(smaller)
    assert list(ratio_points(study.figure_5, smaller)["ratio"]) == [0.5, 0.5]
    assert curve_points(study.figure_6, smaller).empty
    for name in FIGURES:  # a person still gets a figure, which says what it lacks
        assert all(path.stat().st_size > 1000 for path in write_figure(study, name, smaller))


def test_red_is_fine_and_blue_is_coarse():
    coarse, fine = colours(np.array([[0, 1]]), 2)[0].astype(int)
    assert fine[0] > 200 > fine[2] and coarse[2] > 200 > coarse[0]
    middle = colours(np.array([[0, 1, 2]]), 3)[0, 1]
    assert np.abs(middle - (fine + coarse) / 2).max() <= 1


def test_pictures_come_with_their_own_maps_and_classes(config, study):
    write_gallery(config, "d2it_xl_classes", "main", 3, shared=False)
    shown = read_gallery(study.figure_4, config)
    assert shown.classes == [0, 1, 2] and len(shown.pictures) == len(shown.maps) == 3
    for picture, map in zip(shown.pictures, shown.maps, strict=True):
        bright = picture.mean(axis=2).reshape(8, 8, 8, 8).mean(axis=(1, 3)) > 100
        assert (bright == map).all()


def test_a_gallery_that_is_missing_or_torn_is_named_with_its_command(config, study):
    with pytest.raises(UserError, match="d2it evaluate d2it_l"):
        write_figure(study, "figure_3", config)
    write_gallery(config, "d2it_l", "one_map", 8, shared=True)
    (paths.gallery(config, "d2it_l") / "one_map-3.png").unlink()
    with pytest.raises(UserError, match="d2it evaluate d2it_l"):
        write_figure(study, "figure_3", config)
    assert not paths.figures(config).exists()
