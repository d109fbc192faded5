"""The claims' arithmetic on invented results: effects that were planted are found, others not."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats

from d2it.config import paths
from d2it.config.published import published
from d2it.config.recipe import repeats_of
from d2it.errors import UserError
from d2it.files import file_digest, write_json
from d2it.report.claims import Pair, asked, load_claims, needed
from d2it.report.claims_page import render, write_claims
from d2it.report.effects import effect, stand_together, supporting
from tests.commands import command
from tests.planted import CLAIMS, CLEAR, NOTHING, PAIR, of, plant, sections
from tests.planted import config as config  # the fixtures
from tests.planted import elsewhere as elsewhere
from tools.claims_summary import summary

ROOT = Path(__file__).parents[1]


def test_the_interval_is_scipys_and_that_of_a_sum_by_hand(config):
    found = of(config, *CLEAR)
    low, high = scipy.stats.ttest_rel(*CLEAR).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    # differences -10, -11, -12: mean -11, deviation 1, t of two degrees of freedom 4.302653
    assert found.low == pytest.approx(-11 - 4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean == pytest.approx(-11)


def test_holm_asks_the_surest_for_the_most_and_stops_at_the_first_that_fails(config):
    found = of(config, *CLEAR)
    assert found.p == pytest.approx(scipy.stats.ttest_rel(*CLEAR).pvalue)
    equal: Any = SimpleNamespace(pair=replace(PAIR, expect="equal"), p=0.0)  # is no such test

    def standing(*ps: float) -> list[float]:
        some: list[Any] = [SimpleNamespace(pair=PAIR, p=p) for p in ps]
        return [one.p for one in stand_together([equal, *some], 0.95)]

    assert standing(0.04, 0.001, 0.02) == [0.001, 0.02, 0.04]  # each below .05 / 3, / 2, / 1
    assert standing(0.04, 0.001, 0.03) == [0.001]  # .04 alone would stand
    assert standing(0.02, 0.02, 0.02) == []


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
    assert found.verdict == "not decidable" and math.isinf(found.low) and found.p == 1


def test_equality_needs_an_interval_within_the_margin(config):
    pair = Pair("d2it_l", "d2it_l", than_label="truth", expect="equal", within=0.05)
    assert of(config, [100.0, 101.0, 99.0], [100.1, 100.8, 99.1], pair).verdict == "holds"
    assert of(config, [120.0, 121.0, 119.0], [100.0, 101.1, 99.0], pair).verdict == "does not hold"
    assert of(config, [90.0, 101.0, 110.0], [100.0, 100.0, 99.0], pair).verdict == "not decidable"


def test_what_was_not_run_is_never_a_number(config):
    plant(config, "d2it_l", CLEAR[0])
    found = effect(PAIR, CLAIMS, config)
    assert found.verdict == "not run" and found.why == "not evaluated yet" and not found.found
    page = sections(render(config, load_claims()))
    assert "d2it_l < dit_l (not evaluated yet)" in page["Not run"]
    assert "d2it_l < dit_l" not in page["What was run"]


def test_what_was_run_comes_first_and_says_how_many_seeds(config):
    empty = sections(render(config, load_claims()))
    assert (
        empty["What was run"].startswith("\nNothing yet.")
        and "By other metrics and other runs" not in empty
    )
    of(config, *(values[:2] for values in CLEAR))
    page = sections(render(config, load_claims()))
    assert list(page) == [
        "What was run",
        "By other metrics and other runs",
        "What counts and published numbers decide",
        "Not run",
        "Not for these runs to decide",
    ]
    row = next(line for line in page["What was run"].splitlines() if "d2it_l < dit_l" in line)
    assert "| 2 of 3 |" in row and "C05" in row and "C05" not in page["Not run"]
    assert row.count("holds so far") == 2  # the claim's and the pair's
    [line] = [line for line in summary(config).splitlines() if line.startswith("| C05")]
    assert "**holds so far**" in line and line.split(" | ")[2].strip() in row  # the README's


def test_what_stands_against_the_paper_is_said_so(config):
    lower, higher = [100.0 + 1.01 * seed for seed in range(3)], [120.0 + seed for seed in range(3)]
    of(config, higher, lower)
    assert "d2it_l > dit_l, against the paper" in render(config, load_claims())
    of(config, lower, higher)
    page = render(config, load_claims())
    stand = page.split("these differences stand: ")[1].split(". ")[0]
    assert "d2it_l < dit_l" in stand.split("; ") and "against the paper" not in page


def also(config, pair: Pair, metric: str, ours: list[float], others: list[float]) -> str:
    """What another metric says of a pair."""
    plant(config, pair.run, ours, pair.label, metric)
    plant(config, pair.than, others, pair.than_label, metric)
    (found,) = supporting(replace(pair, also=[metric]), CLAIMS, config)
    return found.why or found.verdict


def test_noise_errors_compare_networks_on_the_same_latents_alone(config):
    clear = ([0.140, 0.142, 0.139], [0.150, 0.153, 0.150])
    pair = Pair("d2it_b", "d2it_b_12_0")
    assert also(config, pair, "epsilon_error", *clear) == "holds"
    assert also(config, Pair("d2it_b", "dit_b"), "epsilon_error", *clear) == (
        "not on the same latents"
    )
    path = paths.evaluation(config, "d2it_b_12_0_s1")
    found = json.loads(path.read_text())
    found["evaluations"]["main"]["recipe"]["dvae_sha256"] = "of another"
    path.write_text(json.dumps(found))
    assert len(effect(replace(pair, metric="epsilon_error"), CLAIMS, config).found) == 2


def test_noise_errors_are_asked_for_only_where_they_compare(config):
    """One DVAE, one share of fine regions, and one loss where it is over all grains."""
    content = config.runs.content
    pairs = [pair for claim in load_claims().claims.values() for pair in claim.pairs]
    pairs = [pair for pair in pairs if "epsilon_error_0" in pair.also]
    for pair in pairs:
        ours, others = content[pair.run], content[pair.than]
        assert (ours.latents, ours.ratio) == (others.latents, others.ratio)
        if "epsilon_error" in pair.also:
            assert ours.grain_loss == others.grain_loss
    assert len(pairs) == 6


def test_more_obedience_is_better(config):
    pair = Pair("d2it_l", "d2it_l", than_label="random", expect="equal", within=0.05)
    more = ([0.80, 0.81, 0.79], [0.70, 0.72, 0.70])
    assert also(config, pair, "obedience", *more) == "holds"
    assert also(config, pair, "obedience", *reversed(more)) == "does not hold"
    beside = sections(render(config, load_claims()))["By other metrics and other runs"]
    row = next(line for line in beside.splitlines() if "d2it_l > d2it_l (random)" in line)
    assert "obedience" in row and row.rstrip(" |").endswith("worse")


def test_a_pair_beside_a_claim_is_shown_and_decides_nothing(config):
    plant(config, "dvae_random", [100.0, 101.0, 99.5], "r0.7", "rfid")
    plant(config, "dvae_random", [90.0, 90.5, 90.0], "r1", "rfid")
    plant(config, "dvae_r70", [100.0, 100.0, 101.0], "r0.7", "rfid")
    plant(config, "dvae_r100", [120.0, 121.0, 121.0], "r1", "rfid")
    assert verdict(config, "C08") == "holds"
    page = sections(render(config, load_claims()))
    assert "dvae_r70" not in page["What was run"]
    beside = page["By other metrics and other runs"].splitlines()
    row = next(line for line in beside if "dvae_r100 (r1) < dvae_r70 (r0.7)" in line)
    assert row.rstrip(" |").endswith("worse")


def trained_on(config, device: str, experiment: str) -> None:
    for run in repeats_of(config, experiment):
        evaluation = paths.evaluation(config, run)
        digest = file_digest(evaluation) if evaluation.exists() else ""
        header: dict[str, Any] = {"commit": None, "changed": None}
        header |= {"training": {"devices": [device]}}
        header |= {"format": "d2it-provenance", "version": 1, "evaluation_sha256": digest}
        write_json(paths.provenance(config, run), header)


def test_results_of_different_hardware_do_not_stand_in_one_table(config):
    of(config, *CLEAR)
    trained_on(config, "H200", "dit_l")
    trained_on(config, "H200", "d2it_l")
    assert "Trained on: H200." in render(config, load_claims())
    assert "Trained on: H200." in summary(config)
    trained_on(config, "cpu", "d2it_l")
    with pytest.raises(UserError, match="trained on H200 and cpu"):
        render(config, load_claims())
    trained_on(config, "cpu", "dit_l")
    assert "Trained on: cpu." in render(config, load_claims())
    path = paths.provenance(config, "dit_l")
    known = json.loads(path.read_text())
    known["training"]["processors"] = ["x, AVX2"]
    path.write_text(json.dumps(known))
    assert "Trained on: cpu (x, AVX2)." in render(config, load_claims())


def test_results_of_other_settings_do_not_count(config):
    of(config, *CLEAR)
    changed = replace(config, diffusion=replace(config.diffusion, timesteps=500))
    assert effect(PAIR, 0.95, changed).why == "evaluated with other settings"


def verdict(config, name: str) -> str:
    page = sections(render(config, load_claims()))
    if f"- {name}:" in page.get("Not run", ""):
        return "not run"
    row = next(line for line in page["What was run"].splitlines() if f"| {name}:" in line)
    return row.split("**")[1]


def test_a_claim_of_several_pairs_stands_with_all_and_falls_with_any(config):
    steps = ["dit_b", "d2it_b_routing", "d2it_b_grain_loss", "d2it_b"]
    for i, wanted in enumerate(["not run", "incomplete", "incomplete", "holds"]):
        plant(config, steps[i], [100 - 10 * i + 0.1 * seed * i for seed in range(3)])
        assert verdict(config, "C11") == wanted
    plant(config, "d2it_b_routing", [95.0, 105.0, 100.0])
    assert verdict(config, "C11") == "not decidable"
    plant(config, "d2it_b_routing", [110.0, 111.0, 110.5])
    assert verdict(config, "C11") == "does not hold"


def test_every_claim_of_the_paper_has_a_row_and_every_printed_number_stands_in_a_table(config):
    claims = asked(CLAIMS, config)
    ids = [row["id"] for row in published("prose_claims")]
    assert sorted([*claims.claims, *claims.counted, *claims.untested]) == sorted(ids)
    assert len(claims.claims) >= 8
    printed = {
        number
        for table in (ROOT / "data" / "published").glob("*.csv")
        for number in re.findall(r"\d+\.\d+", table.read_text())
    }
    pairs = [pair for claim in claims.claims.values() for pair in claim.pairs]
    theirs = {f"{value:.2f}" for pair in pairs for value in pair.published or []}
    assert theirs and theirs <= printed
    assert needed(claims, config)[:3] == [
        "d2it_b_routing",
        "d2it_b_routing_s1",
        "d2it_b_routing_s2",
    ]


def test_a_claim_that_the_paper_does_not_make(config):
    claims = load_claims()
    fewer = replace(claims, untested=dict(list(claims.untested.items())[1:]))
    with pytest.raises(UserError, match="every claim stands in both"):
        render(config, fewer)


def test_the_file_has_the_same_bytes_every_time(config):
    of(config, *CLEAR)
    first = write_claims(config).read_bytes()
    assert write_claims(config).read_bytes() == first and b"-28.6" in first


def test_the_command_lists_runs_the_most_important_first():
    done = command("claims", "--runs", "scale=mini", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    runs = done.stdout.split()
    assert runs[0] == "d2it_b_routing" and runs.index("dit_b") < runs.index("dit_l")
