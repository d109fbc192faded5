"""Benchmarks: targets are judged rightly, fits find slopes, and pages are what the JSONs say."""

import json

import pytest
import scipy.stats

from benchmarks import curves, page
from benchmarks.targets import Target, interval_of_median, targets


def one_target(what: str) -> Target:
    return next(target for target in targets() if target.what.startswith(what))


@pytest.mark.parametrize(("seconds", "verdict"), [(2.9, "met"), (3.0, "met"), (3.1, "not met")])
def test_a_target_is_met_at_its_bound(tmp_path, seconds, verdict):
    target = one_target("dry run")
    rows = [{"command": "dry run of the paper's grid", "rounds": [seconds] * 9}]
    (tmp_path / target.file).write_text(json.dumps({"rows": rows}))
    assert target.row(tmp_path)["verdict"] == verdict


def test_rounds_on_both_sides_of_a_bound_leave_it_open(tmp_path):
    rounds = [9.0, 2.9, 2.9, 2.9, 2.9, 2.9, 2.9, 2.9, 2.9]
    for slow, verdict in ((1, "met"), (2, "not decidable"), (7, "not decidable"), (8, "not met")):
        rounds[:slow] = [9.0] * slow
        rows = [{"command": "dry run of the paper's grid", "rounds": rounds}]
        target = one_target("dry run")
        (tmp_path / target.file).write_text(json.dumps({"rows": rows}))
        assert target.row(tmp_path)["verdict"] == verdict


@pytest.mark.parametrize(("n", "least"), [(6, 1), (9, 2), (27, 8)])
def test_the_interval_of_a_median_is_the_shortest_of_its_coverage(n, least):
    assert interval_of_median(range(1, n + 1)) == (least, n + 1 - least)
    outside = scipy.stats.binom.cdf([least - 1, least], n, 0.5)  # so few rounds below the median
    assert 1 - 2 * outside[0] >= 0.95 > 1 - 2 * outside[1]


def test_the_interval_of_few_rounds_is_all_of_them():
    assert interval_of_median([3.0, 1.0, 2.0]) == (1, 3) and interval_of_median([1.0]) == (1, 1)


def test_ratios_are_of_rounds_that_took_turns(tmp_path):
    target = one_target(
        "training DiT, speed over diffusers' in the published loop (fp32), B in bf16"
    )
    of = {"size": "B", "precision": "bf16"}
    rows = [
        of | {"network": "DiT", "precision": "fp32", "rounds": [9.0]},
        of | {"network": "DiT", "rounds": [2.0, 4.0, 1.0]},
        of | {"network": "diffusers' DiT, published loop", "rounds": [3.0, 6.2, 1.6]},
    ]
    (tmp_path / target.file).write_text(json.dumps({"rows": rows}))
    row = target.row(tmp_path)
    assert row["measured"] == 1.55 and row["interval"] == "1.5 – 1.6"


def test_mfu_is_a_share_of_the_gpus_own_peak(tmp_path):
    target = one_target("training DiT, MFU, XL in bf16 on a GPU")
    row = {"network": "DiT", "size": "XL", "precision": "bf16", "tflops": 445.05}
    rows = [row | {"seconds": 1.0, "rounds": [1.0]}]
    found = {"hardware": {"gpu": "NVIDIA H200"}, "rows": rows}
    (tmp_path / target.file).write_text(json.dumps(found))
    row = target.row(tmp_path)
    assert row["measured"] == pytest.approx(0.45) and row["verdict"] == "met"


def test_what_has_no_json_or_no_row_is_not_measured(tmp_path):
    assert {target.row(tmp_path)["verdict"] for target in targets()} == {"not measured"}
    for target in targets():
        (tmp_path / target.file).write_text(json.dumps({"rows": []}))
    assert {target.row(tmp_path)["verdict"] for target in targets()} == {"not measured"}


def test_the_committed_page_is_what_the_jsons_say():
    assert page.PAGE.read_text() == page.page()


def curve(cost, over, points):
    return [
        {"cost": cost, "over": over, "x": x, "seconds": seconds, "rounds": [seconds]}
        for x, seconds in points
    ]


def test_fits_find_what_curves_were_made_of():
    rows = curve("distance", "features", [(x, 3e-9 * x**3) for x in (256, 512, 1024)])
    rows += curve("dry run", "runs", [(x, 1.5 + 0.004 * x) for x in (34, 134, 334)])
    cubic, linear = curves.fitted(rows)
    assert cubic["exponent"] == "3.00" and cubic["line"] == ""
    assert linear["line"] == "1.5 s + 4 ms each"
