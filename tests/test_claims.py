"""The claims' arithmetic on invented results: effects that were planted are found, others not."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats

from d2it.config import load, paths
from d2it.config.recipe import kind_of, repeats_of
from d2it.errors import UserError
from d2it.files import write_json
from d2it.report.claims import Claims, Pair, effect, load_claims, needed, render, write_claims
from d2it.report.results import published
from d2it.report.study import at_scale
from tests.fake_results import write_evaluation

ROOT = Path(__file__).parents[1]
PAIR = Pair("d2it_l", "dit_l", published=[4.47, 6.26])
CLEAR = ([90.0, 92.0, 89.0], [100.0, 103.0, 101.0])
NOTHING = ([100.0, 103.0, 99.0], [101.0, 102.0, 99.5])


@pytest.fixture(scope="module")
def config():
    return load(overrides=["scale=mini"])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plant(config, experiment: str, values: list[float], label: str = "main") -> None:
    """Evaluations of an experiment's first seeds, with these FIDs."""
    for run, value in zip(repeats_of(config, experiment), values, strict=False):
        path = paths.evaluation(config, run)
        if not path.exists():
            write_evaluation(config, run)
        found = json.loads(path.read_text())
        found["evaluations"][label]["metrics"]["fid"] = value
        path.write_text(json.dumps(found))


def of(config, ours, others, pair=PAIR):
    plant(config, pair.run, ours, pair.label)
    plant(config, pair.than, others, pair.than_label)
    return effect(pair, 0.95, config)


def test_the_interval_is_scipys_and_that_of_a_sum_by_hand(config):
    found = of(config, *CLEAR)
    low, high = scipy.stats.ttest_rel(*CLEAR).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    # differences -10, -11, -12: mean -11, deviation 1, t of two degrees of freedom 4.302653
    assert found.low == pytest.approx(-11 - 4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean == pytest.approx(-11)


def test_a_planted_effect_is_found_either_way_and_none_is_undecidable(config):
    assert of(config, *CLEAR).verdict == "holds"
    assert of(config, *reversed(CLEAR)).verdict == "does not hold"
    assert of(config, *NOTHING).verdict == "not decidable"


def test_pairing_by_seed_finds_what_the_seeds_scatter_would_hide(config):
    ours, others = [80.0, 100.0, 120.0], [81.0, 101.2, 120.9]
    assert scipy.stats.ttest_ind(ours, others).pvalue > 0.9
    assert of(config, ours, others).verdict == "holds"


def test_one_seed_decides_nothing(config):
    found = of(config, [90.0], [100.0])
    assert found.verdict == "not decidable" and math.isinf(found.low)


def test_equality_needs_an_interval_within_the_margin(config):
    pair = Pair("d2it_l", "d2it_l", than_label="truth", expect="equal", within=0.05)
    assert of(config, [100.0, 101.0, 99.0], [100.1, 100.8, 99.1], pair).verdict == "holds"
    assert of(config, [120.0, 121.0, 119.0], [100.0, 101.1, 99.0], pair).verdict == "does not hold"
    assert of(config, [90.0, 101.0, 110.0], [100.0, 100.0, 99.0], pair).verdict == "not decidable"


def test_what_was_not_run_is_never_a_number(config):
    plant(config, "d2it_l", CLEAR[0])
    found = effect(PAIR, 0.95, config)
    assert found.verdict == "not run" and found.why == "not evaluated yet"
    row = next(line for line in render(config, load_claims()).splitlines() if "< dit_l" in line)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[4:9] == ["–"] * 5 and cells[11] == "not run"


def took(config, experiment: str, seconds: list[float], device: str = "H200") -> None:
    for run, time in zip(repeats_of(config, experiment), seconds, strict=True):
        training = {"devices": [device], "seconds": time}
        header = {"format": "d2it-provenance", "version": 1, "training": training}
        write_json(paths.provenance(config, run), header)


def test_at_equal_seconds_the_slower_is_taken_when_the_faster_ended(config):
    assert of(config, *CLEAR).timed is None  # nothing tells how long they took
    took(config, "dit_l", [100.0, 100.0, 100.0])
    took(config, "d2it_l", [160.0, 160.0, 160.0])  # after 100 s it is at .625 of its training
    plant(config, "d2it_l", [110.0, 112.0, 109.0], "middle")  # .5
    plant(config, "d2it_l", [100.0, 102.0, 99.0], "late")  # .75
    mean, low, high = effect(PAIR, 0.95, config).timed
    assert mean == pytest.approx(105 - 100 + (0 + 2 - 1 - 0 - 3 - 1) / 3)
    wanted = scipy.stats.ttest_rel([105.0, 107.0, 104.0], CLEAR[1]).confidence_interval(0.95)
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
    took(config, "d2it_l", [900.0, 900.0, 900.0])  # not measured so early
    assert effect(PAIR, 0.95, config).timed is None


def test_results_of_different_hardware_do_not_stand_in_one_table(config):
    took(config, "dit_l", [1.0, 1.0, 1.0])
    took(config, "d2it_l", [1.0, 1.0, 1.0])
    assert "Trained on: H200." in render(config, load_claims())
    took(config, "d2it_l", [1.0, 1.0, 1.0], "cpu")
    with pytest.raises(UserError, match="trained on H200 and cpu"):
        render(config, load_claims())


def test_results_of_other_settings_do_not_count(config):
    of(config, *CLEAR)
    changed = replace(config, diffusion=replace(config.diffusion, timesteps=500))
    assert effect(PAIR, 0.95, changed).why == "evaluated with other settings"


def verdict(config, name: str) -> str:
    text = render(config, load_claims())
    row = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return row.split("|")[4].strip()


def test_a_claim_of_several_pairs_stands_with_all_and_falls_with_any(config):
    steps = ["dit_b", "d2it_b_routing", "d2it_b_grain_loss", "d2it_b"]
    for i, run in enumerate(steps):
        plant(config, run, [100 - 10 * i + 0.1 * seed * i for seed in range(3)])
        assert verdict(config, "C11") == ("holds" if run == steps[-1] else "not run")
    plant(config, "d2it_b_routing", [95.0, 105.0, 100.0])
    assert verdict(config, "C11") == "not decidable"
    plant(config, "d2it_b_routing", [110.0, 111.0, 110.5])
    assert verdict(config, "C11") == "does not hold"


def test_every_claim_of_the_paper_has_a_row_and_every_side_an_evaluation(config):
    claims = load_claims()
    ids = [row["id"] for row in published("prose_claims")]
    assert sorted([*claims.claims, *claims.untested]) == sorted(ids)
    assert len(claims.claims) >= 8
    for claim in claims.claims.values():
        for pair in claim.pairs:
            for run, label in pair.sides:
                assert at_scale(config, run) and len(repeats_of(config, run)) == 3, run
                kind = kind_of(config, run)
                settings = getattr(config.runs, kind)[run]
                if kind == "dvae":
                    assert label in [f"r{ratio:g}" for ratio in settings.ratios]
                else:
                    stem = label.rstrip("*")
                    assert any(name.startswith(stem) for name in settings.evaluations), label
    assert needed(claims, config)[:3] == [
        "d2it_b_routing",
        "d2it_b_routing_s1",
        "d2it_b_routing_s2",
    ]


def test_a_claim_that_the_paper_does_not_make(config):
    claims = load_claims()
    fewer = Claims(claims.level, claims.claims, dict(list(claims.untested.items())[1:]))
    with pytest.raises(UserError, match="every claim stands in both"):
        render(config, fewer)


def test_the_file_has_the_same_bytes_every_time(config):
    of(config, *CLEAR)
    first = write_claims(config).read_bytes()
    assert write_claims(config).read_bytes() == first and b"-28.6" in first


def test_the_command_lists_runs_the_most_important_first():
    command = [sys.executable, "-m", "d2it", "claims", "--runs", "scale=smoke"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split()[:2] == ["dit_b", "d2it_b_grain_loss"]
