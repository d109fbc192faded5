"""What the claims are at a scale: the runs and labels it has for them, or what it lacks."""

from dataclasses import replace
from pathlib import Path

import pytest

from d2it.config import load, paths
from d2it.config.recipe import repeats_of
from d2it.config.run import runs_of
from d2it.errors import UserError
from d2it.report.claims import Claim, Claims, Pair, along, asked, labels_of
from d2it.report.claims_page import render
from d2it.report.counted import Counted, Network, Networks, Printed
from d2it.report.effects import effect, effects, verdict_of
from tests.commands import command
from tests.forked import Forked
from tests.planted import CLAIMS, CLEAR, PAIR, of, plant, sections
from tests.planted import config as config  # the fixtures
from tests.planted import elsewhere as elsewhere

ROOT = Path(__file__).parents[1]
MINI = (
    "mini",
    "mini_cpu",
    "mini_cpu_2048",
    "mini_cpu_long",
    "mini_cpu_photos",
    "mini_cpu_short_grain",
)


def with_claim(*pairs: Pair) -> Claims:
    return replace(CLAIMS, claims={"C05": Claim("says", list(pairs))})


def settled(config, pair: Pair) -> list[Pair]:
    return asked(with_claim(pair), config).claims["C05"].pairs


@pytest.mark.parametrize("scale", [*MINI, "paper"])
def test_every_claim_has_its_runs_and_labels_and_nothing_is_lacking_but_evaluations(scale):
    config = load(overrides=[f"scale={scale}"])
    claims = asked(CLAIMS, config)
    for name, pairs in effects(config, claims).items():
        assert verdict_of(pairs) == "not run"
        assert {one.why for one in pairs} == {"not evaluated yet"}, name
    for claim in claims.claims.values():
        for pair in (*claim.pairs, *claim.beside):
            assert labels_of(pair, 0, runs_of(config)), pair
            assert pair.share is None or scale != "paper" or "suffices" not in pair.label


def test_the_mini_scale_repeats_what_it_compares(config):
    for name, claim in asked(CLAIMS, config).claims.items():
        counts = {len(repeats_of(config, run)) for pair in claim.pairs for run in [pair.run]}
        assert counts == {3} or name in ("C36", "C37"), name


def test_a_label_or_run_that_the_scale_lacks_is_said_in_one_sentence(config):
    for pair, words in (
        (Pair("d2it_b", "d2it_q"), "the run d2it_q"),
        (Pair("d2it_l", "d2it_l", than_label="suffices"), "the evaluation suffices of d2it_l"),
        (Pair("d2it_b", "dit_b", share=0.3), "the evaluation main of d2it_b at 0.3 of dit_b's"),
        (
            Pair("dvae_random", "dvae_random", label="r0.2", metric="rfid"),
            "the evaluation r0.2 of dvae_random",
        ),
        (Pair("d2it_b", "d2it_q", otherwise=Pair("d2it_b", "dit_q")), "the run d2it_q"),
    ):
        with pytest.raises(UserError, match=f"Claim C05 .* names {words}") as error:
            asked(with_claim(pair), config)
        assert str(error.value).count(". ") == 0
    beside = replace(CLAIMS, claims={"C05": Claim("says", [PAIR], [Pair("d2it_b", "dit_q")])})
    assert asked(beside, config).claims["C05"].beside == []


def test_command_and_workflow_say_it_before_a_night_is_spent():
    snakemake = Forked("snakemake", "-n", "claims", "--config", "scale=smoke", cwd=ROOT).end()
    done = command("claims", "--runs", "scale=smoke", cwd=ROOT)
    assert done.returncode == 2 and snakemake.returncode == 1
    for told in (done.stderr, snakemake.stdout + snakemake.stderr):
        assert "names the run d2it_b_routing, which scale smoke does not have" in told
        assert "Traceback" not in told and told.splitlines()[-1].startswith("d2it: error: ")


def test_another_pair_stands_where_the_scale_lacks_a_run(config):
    second = Pair("d2it_b", "dit_b")
    assert settled(config, replace(PAIR, otherwise=second)) == [replace(PAIR, otherwise=second)]
    assert settled(config, Pair("d2it_b", "dit_q", otherwise=second)) == [second]


def test_a_share_of_the_steps_is_a_moment_of_the_run_at_each_scale():
    for scale, plain, guided in (
        ("mini", ["suffices"], ["suffices_guided_125"]),
        ("paper", ["main"], ["guided_125"]),  # D²iT-XL's whole training is 57.2 % of DiT-XL's
    ):
        config = load(overrides=[f"scale={scale}"])
        claims = asked(CLAIMS, config).claims
        (unguided,), (best,) = claims["C04"].pairs, claims["C03"].pairs
        assert labels_of(unguided, 0, runs_of(config)) == plain
        assert labels_of(best, 0, runs_of(config))[:1] == guided
        assert not {"main", "suffices"} & set(labels_of(best, 0, runs_of(config)))


def test_reconstructions_of_content_runs_are_their_dvaes(config):
    (pair,) = settled(config, Pair("d2it_b_r100", "d2it_b_r70", metric="rfid"))
    assert pair.sides == (("dvae_r100", "r1"), ("dvae_r70", "r0.7"))
    cpu = load(overrides=["scale=mini_cpu"])  # one DVAE serves all ratios
    (pair,) = settled(cpu, Pair("d2it_b_r100", "d2it_b_r70", metric="rfid"))
    assert pair.sides == (("dvae", "r1"), ("dvae", "r0.7"))


def test_along_compares_at_every_moment_that_both_have(config):
    pair = Pair("d2it_xl_classes", "dit_xl_classes", along=True)
    labels = [(one.label, one.than_label) for one in settled(config, pair)]
    assert labels == [(at, at) for at in ("early", "middle", "suffices", "main")]
    guided = runs_of(config)["d2it_xl_classes"].evaluations
    assert len(along(runs_of(config)["d2it_xl_classes"])) == 4 < len(guided)


def test_one_training_of_each_is_decided_by_the_gap_of_large_samples_alone(config):
    """The FID Lottery: within 1.3 % nothing is said."""
    one = replace(config, repeats={}, evaluation=replace(config.evaluation, n=50_000))

    def said(ours: float, n: int = 50_000) -> str:
        sized = replace(one, evaluation=replace(one.evaluation, n=n))
        for run in ("d2it_l", "dit_l"):
            paths.evaluation(sized, run).unlink(missing_ok=True)
        return of(sized, [ours], [100.0]).verdict

    assert said(98.6) == "holds" and said(98.8) == "not decidable"
    assert said(101.4) == "does not hold" and said(101.2) == "not decidable"
    assert said(90.0, 10_000) == "not decidable"
    said(98.6)
    row = next(
        line
        for line in sections(render(one, CLAIMS))["What was run"].splitlines()
        if "| C05" in line
    )
    assert "d2it_l < dit_l ‡" in row and "-1.4 [-2.7, -0.1]" in row
    assert "arXiv 2606.20536" in render(one, CLAIMS)
    several = replace(config, evaluation=one.evaluation)
    for run in ("d2it_l", "dit_l"):
        paths.evaluation(several, run).unlink()
    assert of(several, [90.0], [100.0]).verdict == "not decidable"  # seeds are still to come


def test_samples_that_follow_their_map_agree_with_it_by_more_than_chance(config):
    pair = Pair("d2it_l", metric="obedience")
    plant(config, "d2it_l", [0.80, 0.81, 0.79], metric="obedience")
    found = effect(pair, CLAIMS, config)
    assert found.verdict == "holds" and found.average(1) == 0.5 and found.worked == {}
    plant(config, "d2it_l", [0.50, 0.51, 0.49], metric="obedience")
    assert effect(pair, CLAIMS, config).verdict == "not decidable"
    plant(config, "d2it_b_r70", CLEAR[0])
    plant(config, "d2it_b_r70", [0.58, 0.58, 0.58], metric="obedience")
    assert effect(Pair("d2it_b_r70", metric="obedience"), CLAIMS, config).average(1) == (
        pytest.approx(0.58)  # .7 .7 + .3 .3
    )


def test_counts_hold_by_one_reading_and_printed_numbers_name_who_is_better():
    xl, dit = Network("D²iT-XL"), Network("DiT-XL")
    pair = [Networks(xl, dit)]
    assert not Counted("", ["gmacs", "gmacs_fine"], pair).holds
    assert Counted("", ["gmacs", "gmacs_fine"], pair, within=0.2).holds  # fine only: +16.6 %
    assert not Counted("", ["gmacs"], pair, within=0.2).holds
    assert Counted("", ["gmacs"], [Networks(xl, replace(dit, patch=1))]).holds
    assert Counted("", lowest=[Printed("table_1", "D²iT-L")]).holds
    beaten = Counted("", lowest=[Printed("table_1", "D²iT-L"), Printed("table_2", "D²iT-XL-G")])
    assert not beaten.holds
    assert beaten.lines()[1][1]["better"] == "DiMR 1.7; MDTv2-G 1.58"
    assert dit.count("gmacs") == pytest.approx(118.64, abs=0.05)  # as DiT prints
    with pytest.raises(UserError, match="D²iT-Q"):
        Network("D²iT-Q").count("gmacs")
