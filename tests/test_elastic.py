"""One network for every ratio: what it learns from, what it draws, and what its samples cost."""

from pathlib import Path

import numpy as np
import pytest
import torch

import d2it
from d2it import cli
from d2it.config import Config, load, paths
from d2it.config.experiments import Measured
from d2it.config.ratios import at_least
from d2it.config.run import run_of
from d2it.cost.macs import gmacs
from d2it.errors import UserError
from d2it.evaluation.evaluate import evaluate
from d2it.files import read_json
from d2it.grains.maps import grain_map, per_image
from d2it.latents.cache import open_latents
from d2it.sampling.trained_run import RunPipeline
from d2it.training.tasks import make_task
from d2it.training.transformers import SecondStageTask
from tests.commands import command
from tests.tiny_world import OVERRIDES, build_world, enter

GRAIN, RUN, FIXED = "grain_elastic", "d2it_b_elastic", "d2it_b"


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        yield build_world(["grain", RUN, GRAIN, FIXED])


def pipeline(config: Config, run: str = RUN, **measured: object) -> RunPipeline:
    return RunPipeline(run_of(config, run), Measured(**measured), torch.device("cpu"))


# Training


def test_latents_are_measured_over_the_mixture(config: Config) -> None:
    latents = open_latents(run_of(config, "dvae"), "train")
    measured = latents.header["ratios"]
    assert latents.reached("random") == pytest.approx(0.5, abs=0.2)  # 28 images draw a ratio each
    ends = sorted(latents.scale(ratio) for ratio in (0.0, 1.0))
    assert ends[0] <= latents.scale("random") <= ends[1]
    assert latents.cuts(0.5) == measured["0.5"]["cuts"]
    del measured["0.5"]  # the table gives what was measured
    assert latents.cuts(0.5) == open_latents(run_of(config, "dvae"), "train").cuts(0.5)
    assert latents.cuts(0.0) == [np.inf] and latents.cuts(1.0) == [-np.inf]


@pytest.mark.parametrize("run", [GRAIN, RUN])
def test_every_image_draws_its_ratio_and_the_map_is_of_it(config: Config, run: str) -> None:
    task = make_task(run_of(config, run))
    assert isinstance(task, SecondStageTask)
    drawn = task.draw(torch.Generator().manual_seed(0), 64, 0)
    assert len(drawn["reached"].unique()) > 20  # 60 % of the images have one of three ratios
    for cuts, reached in zip(drawn["cuts"], drawn["reached"], strict=True):
        assert cuts.tolist() == pytest.approx(task.latents.cuts(reached.item()), rel=1e-6)
    entropy = task.latents.entropy(np.arange(28))
    fine = grain_map(entropy, per_image(drawn["cuts"][:28])).double().mean((1, 2))
    assert np.corrcoef(fine, drawn["reached"][:28, 0])[0, 1] > 0.7


def test_times_and_noise_are_those_of_other_runs(config: Config) -> None:
    """So that seeds of the two are compared in pairs."""
    drawn = [
        make_task(run_of(config, run)).draw(torch.Generator().manual_seed(0), 8, 0)
        for run in (RUN, FIXED)
    ]
    shared = drawn[1].keys() - {"cuts"}
    assert "noise" in shared and all(torch.equal(drawn[0][key], drawn[1][key]) for key in shared)


# Sampling


def test_one_network_draws_at_every_ratio(config: Config) -> None:
    every = pipeline(config)
    assert every.maps.ratio == 0.5
    for ratio, grain in ((0.0, 0), (1.0, 1)):
        _, maps = every.sample(n=4, ratio=ratio)
        assert (maps == grain).all()
    low, high = (every.sample(n=8, ratio=ratio) for ratio in (0.2, 0.9))
    assert not np.array_equal(low[1], high[1])
    again = pipeline(config, ratio=0.2).draw(0, np.arange(8))
    assert np.array_equal(again.images, low[0]) and np.array_equal(again.maps, low[1])
    truth = pipeline(config, ratio=0.2, maps="truth").draw(0, np.arange(64))
    assert truth.maps.mean() == pytest.approx(0.2, abs=0.1)


def test_work_is_that_of_the_windows_with_fine_regions(config: Config) -> None:
    one, network = pipeline(config), pipeline(config).network.network
    maps = np.zeros((3, 8, 8), np.int64)
    maps[1, 0, 0] = maps[2] = 1
    assert network.live_shares(torch.from_numpy(maps)).tolist() == [[0], [1 / 16], [1]]
    none, few, all = one.gmacs(maps)
    assert few == pytest.approx(none + (all - none) / 16)
    header = read_json(paths.model(config, RUN) / "model.json", made_by="")
    assert all == pytest.approx(gmacs("content", header["architecture"])["dense"])
    assert pipeline(config, "d2it_b").gmacs(maps).tolist() == [none, few, all]


def test_evaluations_at_several_ratios(config: Config) -> None:
    evaluate(run_of(config, RUN))
    found = read_json(paths.evaluation(config, RUN), made_by="")
    every = found["evaluations"]
    assert found["ratio"] == "random" and set(every) == {"main", "r0", "r100"}
    assert [every[label]["recipe"]["ratio"] for label in ("main", "r0", "r100")] == [0.5, 0, 1]
    assert [every[label]["metrics"]["fine_share"] for label in ("r0", "r100")] == [0, 1]
    work = [every[label]["metrics"]["gmacs"] for label in ("r0", "main", "r100")]
    assert work[0] < work[1] <= work[2] == pytest.approx(found["gmacs"]["dense"])
    errors = {label: one["metrics"]["epsilon_error"] for label, one in every.items()}
    assert len(set(errors.values())) == 3
    weights = {one["recipe"]["weights_sha256"] for one in every.values()}
    assert len(weights) == 1 and every["r0"]["recipe"]["grain_sha256"] is None
    evaluate(run_of(config, FIXED))
    fixed = read_json(paths.evaluation(config, FIXED), made_by="")["evaluations"]["main"]
    assert "ratio" not in fixed["recipe"] and "gmacs" not in fixed["metrics"]
    evaluate(run_of(config, GRAIN))
    assert read_json(paths.evaluation(config, GRAIN), made_by="")["ratio"] == "random"


def test_commands(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", "--seeds", "0-3", "--ratio", "0.2"]
    assert cli.main([*words, "--run", RUN, "--out", "low", *OVERRIDES]) == 0
    assert "\nAt ratio 0.2: 0." in capsys.readouterr().out
    assert cli.main(["export", RUN, "--out", "exported", *OVERRIDES]) == 0
    assert cli.main([*words, "--run", "exported", "--out", "same"]) == 0
    for name in ("000003.png", "maps.npy"):
        assert Path("same", name).read_bytes() == Path("low", name).read_bytes()
    images, maps = d2it.load("exported").sample(n=4, ratio=0.2)
    assert np.array_equal(maps, np.load("low/maps.npy"))
    assert cli.main([*words[:3], "--ratio", "0.9", "--run", "exported", "--out", "low"]) == 2
    assert "low holds other samples" in capsys.readouterr().err


BAD = {
    "trained for another": (["--run", FIXED, "--ratio", "0.3"], "trained for 0.5 alone"),
    "no share": (["--run", RUN, "--ratio", "1.5"], "ratio is 1.5, but a share of regions lies"),
    "too many": (["--run", RUN, "--ratio", "0.1,0.2"], "ratio has 2 shares, but 2 grains need 1"),
    "a map": (["--run", RUN, "--ratio", "0.3", "--grain-map", "x.png"], "leave out --ratio or"),
    "a fixed run's evaluation": (
        ["--run", RUN, "runs.content.d2it_b.evaluations={main:{ratio:0.3}}"],
        "d2it_b.evaluations.main.ratio is 0.3, but this run was trained for 0.5 alone",
    ),
    "another grain network": (
        ["--run", RUN, "runs.content.d2it_b_elastic.grain=grain"],
        "d2it_b_elastic.ratio is random, but grain, which draws its maps, has 0.5",
    ),
    "latents not measured": (
        ["--run", RUN, "runs.dvae.dvae.ratios=[0.0,0.5,1.0]"],
        "learns from dvae at ratio random, which its latents are not measured at",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str) -> None:
    words, sentence = BAD[case]
    done = command("sample", "--seeds", "0", "--out", "bad", *words[:2], *OVERRIDES, *words[2:])
    assert done.returncode == 2 and sentence in done.stderr
    assert done.stderr.count("\n") == 1 and not Path("bad").exists()


def test_a_map_has_a_ratio_of_its_own(config: Config) -> None:
    with pytest.raises(UserError, match="give a map or a ratio"):
        pipeline(config).sample(map=np.zeros((8, 8)), ratio=0.5)


# Three grains


def test_three_grains_at_scale_mini() -> None:
    run = run_of(load(overrides=["scale=mini"]), "d2it_b_three_elastic")
    assert run.main_ratio == [0.25, 0.5] and run.factors == [16, 8, 4]
    reached = [at_least(one.ratio or run.main_ratio) for one in run.evaluations.values()]
    assert reached == [[0.75, 0.5], [0, 0], [0.5, 0], [0.5, 0.25], [1, 1]]
