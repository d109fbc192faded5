"""Tables hold measured and printed numbers only, say where each comes from, and are byte-stable."""

import csv
import json
import math
from dataclasses import replace

import pandas as pd
import pytest

from d2it.config import paths
from d2it.config.published import published
from d2it.config.run import run_of
from d2it.config.study import TABLES, item_of, load_study
from d2it.evaluation.compare import HEADLESS
from d2it.report.tables import table, write_table
from d2it.text import escape
from tests.composed import WHOLE, composed
from tests.fake_results import write_evaluation, write_results

PRINTED = TABLES[:-1]  # the last one is beyond the paper


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The demo, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return composed(*WHOLE)


@pytest.fixture(scope="module")
def study():
    return load_study()


def make_comparable(config, study, name, n: int | None = None) -> None:
    """As if evaluated with as many images as the published numbers, or with `n`."""
    item = item_of(study, name)
    for row in item.rows:
        path = paths.evaluation(config, row.run)
        value = json.loads(path.read_text())
        for entry in value["evaluations"].values():
            entry["recipe"] |= {"n": n or item.n, "rank_deficient": False}
        path.write_text(json.dumps(value))


def numbers(value) -> set[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(numbers, value))
    return {value} if isinstance(value, (int, float)) and not isinstance(value, bool) else set()


@pytest.mark.parametrize("name", PRINTED)
def test_differences_are_ours_minus_published(config, study, name):
    write_results(config)
    make_comparable(config, study, name)
    frame = table(study, name, config)
    checked = 0
    for metric in item_of(study, name).metrics:
        for line in frame.to_dict("records"):
            ours, printed = line[f"{metric}_ours"], line[f"{metric}_published"]
            if pd.isna(ours) or pd.isna(printed):
                assert pd.isna(line[f"{metric}_difference"])
            else:
                assert math.isclose(
                    line[f"{metric}_difference"], ours - float(printed), abs_tol=1e-6
                )
                checked += 1
    assert checked >= 2


@pytest.mark.parametrize("name", PRINTED)
def test_no_difference_is_shown_to_numbers_of_another_protocol(config, study, name):
    write_results(config)
    make_comparable(config, study, name, n=5000)
    frame = table(study, name, config)
    columns = [column for column in map(str, frame) if column.endswith("_difference")]
    assert columns and frame[columns].isna().all(axis=None)
    why = f"no difference: n = 5000, published {item_of(study, name).n}"
    beside = frame["run"].notna() & frame[f"{item_of(study, name).metrics[0]}_published"].notna()
    assert frame[beside]["note"].str.endswith(why).all()
    assert "difference |" not in write_table(study, name, config)[1].read_text()


def test_no_difference_is_shown_to_an_fid_of_fewer_images_than_features(config, study):
    write_results(config)
    make_comparable(config, study, "table_1")
    path = paths.evaluation(config, "dit_l")
    path.write_text(path.read_text().replace('"rank_deficient": false', '"rank_deficient": true'))
    lines = table(study, "table_1", config).set_index("row")
    assert pd.isna(lines.loc["DiT-L"]["fid_difference"])
    assert lines.loc["DiT-L"]["note"] == "no difference: fewer images than features"
    assert not pd.isna(lines.loc["D²iT-L"]["fid_difference"])


def test_an_fid_by_the_other_resizing_stands_beside(config, study):
    write_results(config)
    path = paths.evaluation(config, "d2it_l")
    path.write_text(path.read_text().replace('"fid": ', '"fid_adm": 4.876, "fid": '))
    notes = table(study, "table_1", config).set_index("row")["note"]
    assert notes["D²iT-L"].startswith("FID 4.88 with TensorFlow's resizing; ")
    assert "resizing" not in notes["DiT-L"]


@pytest.mark.parametrize("name", TABLES)
def test_every_number_of_ours_is_in_the_evaluation_of_the_run_it_names(config, study, name):
    write_results(config, fid=0.25)
    frame = table(study, name, config)
    own = [column for column in map(str, frame) if column.endswith(("_ours", "_spread"))]
    lines = [line for line in frame.to_dict("records") if not pd.isna(line["run"])]
    assert len(lines) == len({line["row"] + str(line.get("group")) for line in lines}) >= 2
    for line in lines:
        run = line["run"].rpartition("-")[0]
        assert line["run"] == run_of(config, run).id
        evaluation = json.loads(paths.evaluation(config, run).read_text())
        found = numbers(evaluation)
        found |= {evaluation["parameters"]["trainable"] / 1e6}
        for column in [*own, "n"]:
            assert pd.isna(line[column]) or line[column] in found, (line["row"], column)


@pytest.mark.parametrize("name", TABLES)
def test_without_evaluations_there_are_gaps_and_no_numbers(config, study, name):
    frame = table(study, name, config)
    own = [
        column for column in map(str, frame) if column.endswith(("_ours", "_spread", "_difference"))
    ]
    assert frame[[*own, "n", "run"]].isna().all(axis=None)
    notes = {"published only", "not evaluated yet", "ours only; not evaluated yet"}
    assert set(frame["note"]) <= notes
    assert "not evaluated yet" in set(frame["note"])


def test_a_row_beyond_the_paper_is_shown_where_the_scale_trains_its_run(config, study):
    write_results(config)
    last = table(study, "table_3", config).iloc[-1]
    assert last["row"] == "+ Third granularity (beyond the paper)"
    assert last["run"] == run_of(config, "d2it_b_three").id and last["fid_ours"] > 0
    assert last["note"] == "ours only; r = 0.25,0.5"  # nothing to be compared with
    assert pd.isna(last["fid_published"]) and pd.isna(last["fid_difference"])
    assert "Third granularity" in write_table(study, "table_3", config)[1].read_text()
    content = {name: run for name, run in config.runs.content.items() if name != "d2it_b_three"}
    smaller = replace(config, runs=replace(config.runs, content=content))
    assert len(table(study, "table_3", smaller)) == len(published("table_3"))
    for path in write_table(study, "table_3", smaller):
        assert "Third granularity" not in path.read_text()


def test_a_run_that_the_scale_does_not_train_is_a_gap(config, study):
    write_results(config)
    smaller = replace(config, runs=replace(config.runs, dit={}))
    lines = table(study, "table_3", smaller).to_dict("records")
    assert lines[0]["note"] == "not at this scale" and pd.isna(lines[0]["fid_ours"])
    assert not pd.isna(lines[1]["fid_ours"])
    for path in write_table(study, "table_3", smaller):
        assert "not at this scale" in path.read_text()


def test_a_number_made_with_other_settings_is_not_shown(config, study):
    write_results(config)
    make_comparable(config, study, "table_3")
    other = composed("training.content.learning_rate=0.5")
    lines = table(study, "table_3", other).to_dict("records")
    assert [line["note"] for line in lines][:4] == ["", *3 * ["evaluated with other settings"]]
    assert pd.isna(lines[3]["fid_ours"])


def test_a_ratio_other_than_the_published_one_is_said_in_the_row(config, study):
    other = composed("ratio=0.7")
    write_results(other)
    make_comparable(other, study, "table_3")
    notes = list(table(study, "table_3", other)["note"])[:4]
    assert notes == ["", "r = 0.7", "r = 0.7", "r = 0.7"]  # DiT has no ratio


def test_the_guidance_of_lowest_fid_is_chosen_and_named(config, study):
    write_results(config)
    make_comparable(config, study, "table_2")
    path = paths.evaluation(config, "d2it_xl_classes")
    value = json.loads(path.read_text())
    value["evaluations"]["guided_150"]["metrics"]["fid"] = 99.0
    value["evaluations"]["guided_200"]["metrics"]["fid"] = 98.0
    path.write_text(json.dumps(value))
    frame = table(study, "table_2", config).set_index("row")
    line = frame.loc["D²iT-XL-G"]
    assert line["fid_ours"] == 98.0 and line["evaluation"] == "guided_200"
    assert line["note"] == "guidance 2.0; lowest FID of guided_150, guided_200; no IS"
    assert frame.loc["D²iT-XL"]["evaluation"] == "main"

    del value["evaluations"]["guided_200"]["metrics"]["fid"]  # no FID is not the lowest
    path.write_text(json.dumps(value))
    line = table(study, "table_2", config).set_index("row").loc["D²iT-XL-G"]
    assert line["evaluation"] == "guided_150"


def test_the_fid_of_raw_weights_stands_beside_the_averaged_ones(config, study):
    raw = composed("runs.content.d2it_b.evaluations={main:{},raw:{weights:raw}}")
    write_results(raw)
    found = json.loads(paths.evaluation(raw, "d2it_b").read_text())["evaluations"]
    line = table(study, "table_4", raw).set_index("row").loc["10+2"]
    assert line["fid_ours"] == found["main"]["metrics"]["fid"]
    assert f"FID {found['raw']['metrics']['fid']:.2f} without averaged weights" in line["note"]


def test_inception_score_is_a_gap_with_its_reason(config, study):
    write_results(config)
    path = paths.evaluation(config, "dit_xl_classes")
    value = json.loads(path.read_text())
    value["evaluations"]["main"]["recipe"]["missing"] = {"inception_score": HEADLESS}
    path.write_text(json.dumps(value))
    frame = table(study, "table_2", config)
    assert frame["inception_score_ours"].isna().all()
    for path in write_table(study, "table_2", config)[:2]:
        text = path.read_text()
        assert "no IS: `d2it fetch inception_head` gets the classifier head that it needs" in text
    value["evaluations"]["main"]["metrics"]["inception_score"] = 5.5
    paths.evaluation(config, "dit_xl_classes").write_text(json.dumps(value))
    line = table(study, "table_2", config).set_index("row").loc["DiT-XL"]
    assert line["inception_score_ours"] == 5.5 and "no IS" not in line["note"]


def test_table_4_fills_both_groups_and_prints_costs(config, study):
    write_results(config)
    frame = table(study, "table_4", config)
    assert len(frame) == 8  # 12+0 stands in both groups, with fixed and with learnable positions
    assert frame["fid_ours"].notna().all()
    both = frame[frame["row"].str.startswith("12+0")]
    assert set(both["fid_published"]) == {"25.15"} and len(both) == 4
    costs = frame.set_index("row")
    assert costs.loc["12+4"]["parameters_ours"] > costs.loc["12+2"]["parameters_ours"]
    assert costs.loc["8+4"]["gmacs_dense_ours"] > costs.loc["8+4"]["gmacs_sparse_ours"]


def test_files_are_equal_on_a_second_run_and_name_scale_and_command(config, study):
    write_results(config, fid=0.5)
    for name in TABLES:
        written = write_table(study, name, config)
        assert [path.suffix for path in written] == [".csv", ".md", ".tex"]
        before = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in write_table(study, name, config)] == before
        for path in written:
            first = path.read_text().splitlines()[0]
            assert "Scale demo" in first and "minutes on two cores" in first
            assert ("photographs" in first) == (name != "table_2") != ("emoji" in first)
            assert "snakemake --profile slurm all_tables --config scale=paper" in first
        lines = written[0].read_text().splitlines()
        assert lines[0].startswith("# ") and written[2].read_text().startswith("% ")
        rows = list(csv.DictReader(lines[1:]))
        assert len(rows) == len(table(study, name, config))
        assert "± 0.50" in written[1].read_text()


def test_latex_is_escaped_and_balanced(config, study):
    write_results(config)
    assert escape("a_b & 50 % of #1 {x} D²iT ↓ –") == (
        r"a\_b \& 50 \% of \#1 \{x\} D$^2$iT $\downarrow$ --"
    )
    for name in TABLES:
        text = write_table(study, name, config)[2].read_text()
        assert text.isascii() and r"\toprule" in text
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        header = text.split(r"\toprule")[1].split(r"\midrule")[0].strip()
        for line in [header, *body]:
            assert line.replace(r"\&", "").count("&") == header.count("&")
            assert line.endswith(r"\\")
        assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}")


def test_an_evaluation_of_another_version_is_refused(config, study):
    from d2it.errors import UserError

    write_evaluation(config, "dit_b")
    path = paths.evaluation(config, "dit_b")
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(UserError, match="d2it evaluate dit_b"):
        table(study, "table_3", config)


def test_published_numbers_are_the_papers():
    found = {
        name: {(row.get("group"), row["row"]): row["fid"] for row in published(name)}
        for name in PRINTED
    }
    first = {name: list(values.values()) for name, values in found.items()}
    assert first["table_1"] == ["11.4", "13.06", "28.5", "9.57", "5.54", "4.98", "6.26", "4.47"]
    assert first["table_3"] == ["34.67", "29.10", "27.62", "22.11"]
    assert first["table_4"] == ["25.15", "22.11", "26.53", "25.15", "20.99", "19.96"]
    assert first["table_5"] == ["15.93", "4.35", "4.47"]
    assert len(first["table_2"]) == 21
    best = next(row for row in published("table_2") if row["row"] == "D²iT-XL-G")
    assert [best[key] for key in ("fid", "inception_score", "precision", "recall")] == (
        ["1.73", "307.89", "0.87", "0.56"]
    )
    # What the text says of the tables (section 4.2): 23.8 % over DiT-XL, 28.6 % over DiT-L.
    assert round(100 * (2.27 - 1.73) / 2.27, 1) == 23.8
    assert round(100 * (6.26 - 4.47) / 6.26, 1) == 28.6
    points = {row["ratio"]: row for row in published("figure_5")}
    assert points["0.5"]["fid"] == "22.11" and points["0.7"]["rfid"] == "1.83"
    # Figure 6's ends: 7 M steps of 256 images, and 800 epochs of ImageNet.
    ends = {row["row"]: float(row["million_images"]) for row in published("figure_6")}
    assert ends == {"DiT-XL": 7 * 256, "D²iT-XL": round(800 * 1.281167)}


def test_one_network_for_every_ratio_stands_beside_those_of_one(config, study):
    write_results(config)
    frame = table(study, "table_6", config)
    lines = frame.set_index("row")
    assert not [
        column for column in map(str, frame) if "published" in column and frame[column].any()
    ]
    assert (
        lines.loc["r = 0.3, one for all"]["note"]
        == lines.loc["r = 0.3, its own"]["note"]
        == "r = 0.3"
    )
    assert lines.loc["r = 0.3, one for all"]["run"] == lines.loc["r = 1, one for all"]["run"]
    assert frame["fid_ours"].notna().all() and frame["fid_ours"].nunique() == len(frame)
    shown = write_table(study, "table_6", config)[1].read_text()
    assert "Table 6 (beyond the paper)." in shown and "ublished:" not in shown
