"""Three granularities: the same commands from thresholds to tables, and the published size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from d2it import cli
from d2it.config import Config, load, paths
from d2it.config.experiments import Measured
from d2it.config.ratios import at_least, finest, half_finest, is_constant
from d2it.config.run import run_of
from d2it.cost.named_models import named_models
from d2it.diffusion import Schedule, noise_loss, sample
from d2it.files import read_json
from d2it.grains.maps import cell_weights, copy_within, random_map, reached_shares, route
from d2it.latents.cache import Latents
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dvae import Dvae
from d2it.sampling.trained_run import RunPipeline
from tests.tiny_world import OVERRIDES, enter

TINY = [
    *OVERRIDES,
    "runs.dvae.dvae_three.ratios=[[0.25,0.5],[0,1]]",
    *(f"training.{kind}.images=16" for kind in ("dvae", "grain", "content")),
    "dvae_loss.gan_start=8",
]
HERE = ["--launcher", "local", "--processes", "1"]
CHAIN = [
    ["prepare", "photos"],
    ["calibrate", "photos"],
    ["reference", "photos"],
    ["train", "dvae_three", *HERE],
    ["encode", "dvae_three"],
    ["train", "grain_three", *HERE],
    ["train", "d2it_b_three", *HERE],
    *(["evaluate", run] for run in ("dvae_three", "grain_three", "d2it_b_three")),
    ["table", "3"],
]


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    """Everything there is of three grains, trained for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        for words in CHAIN:
            assert cli.main([*words, *TINY]) == 0, words
        yield load(overrides=TINY)


def metrics(config: Config, run: str, label: str) -> dict[str, float]:
    found = read_json(paths.evaluation(config, run), made_by="")
    return found["evaluations"][label]["metrics"]


def test_shares_are_reached_from_thresholds_of_their_own_regions(config: Config) -> None:
    latents = Latents.open(paths.latents(config, "dvae_three"), "train")
    assert latents.factors == [16, 8, 4] and latents.maps([0.25, 0.5], np.arange(2)).shape[1:] == (
        (4, 4)
    )
    assert latents.reached([0.25, 0.5]) == pytest.approx([0.25, 0.5], abs=0.01)
    assert latents.std([0, 1])[:2] == [None, None]  # all finest


def test_every_evaluation_speaks_of_every_grain(config: Config) -> None:
    coded = metrics(config, "dvae_three", "r0.25,0.5")
    assert coded["fine_share"] + coded["share_1"] <= 1 and coded["psnr"] > 0
    assert metrics(config, "dvae_three", "r0,1")["fine_share"] == 1
    maps = metrics(config, "grain_three", "main")
    assert maps["fine_share_data"] == pytest.approx(0.5, abs=0.01)
    assert maps["share_1_data"] == pytest.approx(0.25, abs=0.01) and "share_1" in maps
    painted = metrics(config, "d2it_b_three", "main")
    assert {"fid", "obedience", "epsilon_error_0", "epsilon_error_1", "epsilon_error_2"} <= set(
        painted
    )
    header = json.loads(paths.evaluation(config, "d2it_b_three").read_text())
    assert header["ratio"] == [0.25, 0.5] and header["gmacs"]["sparse"] < header["gmacs"]["dense"]
    gallery = read_json(paths.gallery(config, "d2it_b_three") / "maps.json", made_by="")
    assert np.shape(gallery["main"])[1:] == (4, 4) and np.max(gallery["main"]) <= 2
    assert "ours only" in Path("results/smoke/tables/table_3.md").read_text()


def test_samples_depend_on_seed_and_index_alone_and_codes_stay_equal(config: Config) -> None:
    pipeline = RunPipeline(run_of(config, "d2it_b_three"), Measured(maps="truth"), "cpu")
    every = pipeline.draw(0, np.arange(8))
    assert np.array_equal(pipeline.draw(0, np.array([6])).images, every.images[[6]])
    maps = torch.from_numpy(every.maps)
    z = pipeline._latents(0, np.arange(8), every.labels, maps)
    assert torch.equal(z, copy_within(z, maps, 3))


# The published size


def test_three_grains_at_256_px_train_and_sample() -> None:
    """{32, 16, 8} as `d2it models` names it, in narrow."""
    torch.manual_seed(0)
    models = named_models()
    assert models["DVAE {32, 16, 8}"][1]["multipliers"] == [1, 2, 4, 4, 4, 4]
    shape = models["DVAE {32, 16, 8}"][1] | {"channels": 4, "res_blocks": 1, "norm_groups": 2}
    dvae, generator = Dvae(**shape), torch.Generator().manual_seed(0)
    map = random_map(generator, 1, 8, [0.25, 0.5])
    with torch.no_grad():
        means = [mean for mean, _ in dvae.encode(torch.rand(1, 3, 256, 256) * 2 - 1)]
        assert [mean.shape[-1] for mean in means] == [8, 16, 32]
        z0 = route(means, map)
        assert dvae.decode(z0).shape == (1, 3, 256, 256)

    shape = models["D²iT-B {32, 16, 8}"][1] | {"width": 16, "heads": 2, "layers": (1, 1)}
    network, schedule = ContentTransformer(**shape), Schedule()
    assert [refine.side for refine in network.refine] == [16, 32]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    t, y = torch.tensor([500]), torch.tensor([7])
    noise = copy_within(torch.randn(1, 4, 32, 32), map, 3)
    zt, weights = schedule.q_sample(z0, t, noise), cell_weights(map, 3)
    assert weights.unique().tolist() == [1 / 16, 1 / 4, 1]
    losses = []
    for _ in range(2):
        loss = noise_loss(schedule, network(zt, t, y, map), z0, zt, t, noise, weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    drawn = sample(
        lambda x, t: network(x, t, y, map),
        lambda step: torch.randn(1, 4, 32, 32),
        schedule,
        "ddpm",
        steps=3,
        map=map,
        k=3,
    )
    assert torch.equal(drawn, copy_within(drawn, map, 3)) and drawn.isfinite().all()


# Ratios


def test_ratios_of_any_number_of_grains() -> None:
    assert at_least(0.3) == [0.3] and at_least([0.2, 0.3]) == [0.5, 0.3]
    assert at_least([0.7, 0.2, 0.1])[0] == 1  # but for rounding
    assert [finest(k) for k in (2, 3, 4)] == [1.0, [0.0, 1.0], [0.0, 0.0, 1.0]]
    assert [half_finest(k) for k in (2, 3)] == [0.5, [0.25, 0.5]]
    assert is_constant([1.0, 0.0]) and is_constant(finest(3)) and not is_constant([0.5, 0.0])
    map = torch.tensor([[[0, 1], [2, 2]]])
    assert reached_shares(map, 3) == {"fine_share": 0.5, "share_1": 0.25}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("runs.dvae.dvae_three.ratio=0.5", "has 1 share, but 3 grains need 2"),
        ("runs.dvae.dvae_three.ratio=[0.2,0.3,0.1]", "has 3 shares, but 3 grains need 2"),
        ("runs.dvae.dvae_three.ratio=[0.7,0.5]", "and shares sum to at most 1"),
        ("runs.dvae.dvae_three.ratio=[-0.1,0.5]", "a share of regions lies in [0, 1]"),
        ("runs.dvae.dvae_three.ratio=[half,0.5]", "must be a number or a list of numbers"),
        ("runs.dvae.dvae_three.ratios=[0.5]", "runs.dvae.dvae_three.ratios has 1 share,"),
        ("runs.grain.grain_three.ratio=[0,1]", "a constant map needs no grain transformer"),
        ("runs.content.d2it_b_three.grain=grain", "draws maps of the factors [8, 4], but its"),
        ("runs.dvae.dvae_three.factors=[16,8,2]", "must halve from coarse to fine"),
        ("runs.dvae.dvae_three.factors=[24,12,6]", "must be powers of two"),
        ("runs.dvae.dvae_three.factors=[32,16,8]", "has 5 stages, but the factor 32 of"),
        ("data.photos.size=72", "72 px do not divide into regions of 16 px"),
        ("runs.dvae.dvae_three.images=4", "images is 4, less than one batch of 8"),
        ("model.window=16", "model.window is 16, but must divide the 8 x 8 tokens of grain 1"),
    ],
)
def test_bad_ratios_and_grids_are_one_sentence(
    override: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "dvae_three", "scale=smoke", override]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("d2it: error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
