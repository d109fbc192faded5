"""Figure 7: FIDs stand at the MACs that they took, at those that they could take, and published."""

import json
import statistics

import pytest

from d2it.config import load, paths
from d2it.config.published import published
from d2it.config.recipe import repeats_of
from d2it.config.run import run_of
from d2it.config.study import load_study
from d2it.cost.macs import gmacs
from d2it.models.architecture import architecture
from d2it.report.compute import DENSE, FINE, LIVE, pass_gmacs, sample_gmacs, training_gmacs
from d2it.report.figure_compute import compute_points, draw_compute
from d2it.report.results import result
from d2it.report.tables import readable, table
from tests.fake_results import write_evaluation, write_results
from tests.planted import say


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load()


@pytest.fixture
def mini(config):
    return load(overrides=["scale=mini"])


def test_a_sample_costs_all_passes_of_its_sampler_and_its_map(config):
    write_results(config)
    dense = gmacs("content", architecture(run_of(config, "d2it_xl_classes")))["dense"]
    map = gmacs("grain", architecture(run_of(config, "grain_classes")))["dense"]

    def costs(label: str) -> float:
        return sample_gmacs(config, result(config, "d2it_xl_classes", label))[DENSE]

    steps = {"main": 25, "guided_150": 50}  # two passes a step with guidance
    found = json.loads(paths.evaluation(config, "d2it_xl_classes").read_text())
    for one in found["evaluations"].values():
        one["recipe"]["grain_steps"] = 10
    paths.evaluation(config, "d2it_xl_classes").write_text(json.dumps(found))
    for label, passes in steps.items():
        assert costs(label) == pytest.approx(passes * dense + 10 * map)
    true_maps = sample_gmacs(config, result(config, "d2it_l", "truth"))[DENSE]
    assert true_maps == 25 * gmacs("content", architecture(run_of(config, "d2it_l")))["dense"]
    shown = sample_gmacs(config, result(config, "dit_b"))
    dit = gmacs("dit", architecture(run_of(config, "dit_b")))["dense"]
    assert shown == {reading: pytest.approx(25 * dit) for reading in (DENSE, FINE, LIVE)}


def test_training_is_three_passes_an_image_up_to_the_moment(config):
    write_evaluation(config, "dit_xl_classes")
    early = result(config, "dit_xl_classes", "early")
    one = pass_gmacs(config, early)[DENSE]
    assert training_gmacs(config, early)[DENSE] == 3 * early.recipe["images"] * one


def test_an_evaluation_that_skipped_windows_says_its_own_work(config):
    write_evaluation(config, "d2it_b")
    path = paths.evaluation(config, "d2it_b")
    found = json.loads(path.read_text())
    found["evaluations"]["main"]["metrics"]["gmacs"] = 0.027
    path.write_text(json.dumps(found))
    assert pass_gmacs(config, result(config, "d2it_b")) == {LIVE: 0.027}


def test_points_are_means_over_training_seeds_and_plain_evaluations(mini):
    for run in ("d2it_xl_classes", "dit_xl_classes", "d2it_l"):
        for one in repeats_of(mini, run):
            write_evaluation(mini, one)
    points = compute_points(mini)
    labels = {(one.run, one.label) for one in points}
    assert ("d2it_xl_classes", "suffices") in labels and ("d2it_l", "random") not in labels
    assert not any("guided" in label for _, label in labels)
    point = next(one for one in points if one.run == "d2it_l" and one.at == 1.0)
    fids = [result(mini, run).metrics["fid"] for run in repeats_of(mini, "d2it_l")]
    assert point.fid == pytest.approx(statistics.fmean(fids))
    assert point.spread == pytest.approx(statistics.stdev(fids)) and len(fids) == 3
    assert {one.task for one in points} == {"unconditional", "class-conditional"}


def test_marks_are_filled_ours_and_hollow_published_at_their_macs(config):
    write_results(config)
    figure, said = draw_compute(load_study().figure_7, config)
    ours, _, theirs = figure.axes[:3]
    dit = [sample_gmacs(config, result(config, run))[DENSE] * 1e9 for run in ("dit_b", "dit_l")]
    assert list(ours.lines[0].get_xdata()) == pytest.approx(dit)
    assert ours.lines[0].get_fillstyle() == "full"
    hollow = [line for line in theirs.lines if line.get_fillstyle() == "none"]
    fids = [float(row["fid"]) for row in published("figure_7")]
    assert [line.get_ydata()[0] for line in hollow] == fids
    assert hollow[4].get_xdata()[0] == pytest.approx(250 * 118.64e9, rel=1e-3)  # DiT-XL
    assert any("250 steps" in sentence for sentence in said)


def test_published_points_are_the_tables():
    printed = {row["row"]: row["fid"] for n in (1, 2, 3) for row in published(f"table_{n}")}
    names = {"D²iT-B": "+ RefineNet & Learnable Pos-embed"}
    for row in published("figure_7"):
        name = f"{row['model']}-{row['size']}"
        assert row["fid"] == printed[names.get(name, name)]


def test_tables_print_the_work_of_a_sample_beside_every_fid_of_ours(config):
    write_results(config)
    for number in range(1, 6):
        found = table(load_study(), f"table_{number}", config)
        ours = found["fid_ours"].notna()
        assert ours.any() and (found["sample_gmacs"].notna() == ours).all()
        assert "GMACs a sample" in readable(found)
    say(config, "dit_l", gmacs={"dense": 118.64, "sparse": 118.64})
    shown = readable(table(load_study(), "table_1", config)).set_index("method")
    assert shown.loc["DiT-L", "GMACs a sample"] == "2,966"
