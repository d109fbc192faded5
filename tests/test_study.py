"""The study names runs that exist, fills every row the paper trained itself, and is closed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from d2it.config import load, paths
from d2it.config.published import published
from d2it.config.recipe import KINDS
from d2it.config.run import run_of, runs_of
from d2it.config.study import (
    ITEMS,
    TABLES,
    at_scale,
    cells,
    inputs,
    item_of,
    listing,
    load_study,
    needs,
    with_inputs,
)
from d2it.errors import UserError
from tests.commands import command
from tests.composed import WHOLE, composed

ROOT = Path(__file__).parents[1]
PRINTED = TABLES[:-1]  # the last one is beyond the paper


@pytest.fixture(scope="module")
def config():
    return composed(*WHOLE)


@pytest.fixture(scope="module")
def study():
    return load_study()


def test_every_cell_names_an_experiment(study, config):
    experiments = {path.stem for path in (ROOT / "params" / "experiment").glob("*.yaml")}
    for item, run, what in cells(study, config):
        assert run in experiments, f"{item}: {what}"


def test_every_row_of_the_study_stands_beside_a_published_one(study):
    for name in PRINTED:
        item = item_of(study, name)
        printed = published(name)
        assert {row.row for row in item.rows} <= {row["row"] for row in printed}, name
        assert set(item.metrics) <= set(printed[0]), name


def test_labels_are_evaluations_of_their_runs(study, config):
    for name in TABLES:
        for row in item_of(study, name).all_rows(config):
            kind = next(kind for kind in KINDS if row.run in getattr(config.runs, kind))
            labels = getattr(config.runs, kind)[row.run].evaluations
            prefix = row.label.rstrip("*")
            assert any(label == prefix or label.startswith(prefix) for label in labels), row
    known = set[str]()  # of the longest curves: a scale need not have all of them
    for scale in (config, load(overrides=["scale=mini"])):
        runs = scale.runs.dit | scale.runs.content
        for curve in study.figure_6.curves:
            assert {"early", "middle", "main"} <= set(runs[curve.run].evaluations)
        known |= {label for run in runs.values() for label in run.evaluations}
    assert {"early", "middle", "main"} <= set(study.figure_6.labels) <= known


def test_rows_that_the_paper_trained_itself_all_have_runs(study, config):
    filled = {(item, what) for item, _, what in cells(study, config)}
    counts = {name: len([1 for item, _ in filled if item == name]) for name in ITEMS}
    assert counts == {
        "table_1": 2,
        "table_2": 4,
        "table_3": 5,  # one of them beyond the paper
        "table_4": 6,
        "table_5": 3,
        "table_6": 16,
        "figure_3": 1,
        "figure_4": 1,
        "figure_5": 12,
        "figure_6": 6,
        "figure_7": 1,  # of every network that draws
    }


def test_needs_and_inputs(study, config):
    assert needs(study, "table_5", config) == ["d2it_l"]
    assert needs(study, "table_3", config) == [
        "dit_b",
        "d2it_b_routing",
        "d2it_b_grain_loss",
        "d2it_b",
        "d2it_b_three",
    ]
    assert config.runs.content["d2it_b_r30"].latents in needs(study, "figure_5", config)
    assert inputs(study, "table_5", config) == [
        paths.evaluation(config, "d2it_l"),
        Path("data/published/table_5.csv"),
    ]
    assert Path("data/published/figure_6.csv") in inputs(study, "figure_6", config)
    runs = runs_of(config)
    behind = [run.name for run in with_inputs([runs["d2it_l"], runs["dit_b"]])]
    assert behind == ["dvae", "grain", "d2it_l", "dit_b"]
    assert inputs(study, "figure_3", config) == [paths.gallery(config, "d2it_l") / "manifest.json"]


def test_runs_that_a_scale_does_not_train_are_left_out(study, config):
    content = {name: run for name, run in config.runs.content.items() if name != "d2it_b_r30"}
    smaller = replace(config, runs=replace(config.runs, content=content, dit={}))
    assert needs(study, "table_1", smaller) == ["d2it_l"]
    assert "d2it_b_r30" not in needs(study, "figure_5", smaller)
    assert not at_scale(smaller, "dit_b") and at_scale(smaller, "d2it_b")


def test_the_listing_has_every_run_once_and_every_run_is_of_use(study, config):
    runs = listing(study, config)
    names = [run["run"] for run in runs]
    assert len(names) == len(set(names)) == sum(len(getattr(config.runs, k)) for k in KINDS)
    assert all(run["folder"] == run_of(config, run["run"]).id for run in runs)
    used = {name for run in runs for name in run["inputs"]}
    for run in runs:
        assert run["fills"] or run["run"] in used, f"{run['run']} serves nothing"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda study: study["table_1"].update(tilte="x"), "(did you mean 'title'?)"),
        (lambda study: study.update(tabel_1={}), "(did you mean 'table_1'?)"),
        (lambda study: study["table_3"]["rows"][0].pop("run"), "run' is missing"),
        (lambda study: study.pop("figure_6"), "figure_6' is missing"),
        (lambda study: study["figure_5"].update(runs="d2it_b"), "must be a list of names"),
    ],
)
def test_a_study_that_makes_no_sense(tmp_path, change, sentence):
    value = yaml.safe_load((ROOT / "params" / "study.yaml").read_text())
    change(value)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(UserError) as raised:
        load_study(path)
    assert sentence in str(raised.value) and str(path) in str(raised.value)


def test_an_unknown_item(study, config):
    with pytest.raises(UserError, match="did you mean 'table_3'"):
        needs(study, "tabel_3", config)


def test_the_command_prints_runs_and_cells():
    text = command("study", cwd=ROOT).stdout
    assert "scale demo" in text.splitlines()[0].lower()
    assert "fills Table 3 (+ RefineNet & Learnable Pos-embed)" in text
    value = json.loads(command("study", "--json", "ratio=0.7", cwd=ROOT).stdout)
    found = {run["run"]: run for run in value["runs"]}
    assert found["d2it_b"]["inputs"] == ["dvae", "grain"]
    assert "Figure 5 (FID at r = 0.7)" in found["d2it_b"]["fills"]
