"""Samples are functions of (seed, i) and of what was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from d2it.config import Config, load, paths
from d2it.config.experiments import Measured
from d2it.config.recipe import sampling_recipe
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import file_digest, read_sealed, write_sealed
from d2it.grains.maps import copy_within
from d2it.sampling.pipeline import Drawn
from d2it.sampling.trained_run import Maps, RunPipeline
from tests.tiny_world import OVERRIDES, build_world, enter

RUNS = ["grain", "grain_classes", "d2it_l", "d2it_b_r0", "dit_b", "d2it_xl_classes"]
DEVICE = torch.device("cpu")
SOURCES = ["predicted", "random", "truth"]


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        yield build_world(RUNS)


def pipeline(config: Config, run: str, **measured: object) -> RunPipeline:
    return RunPipeline(run_of(config, run), Measured(**measured), DEVICE)


def same(a: Drawn, b: Drawn) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.parametrize("run", ["d2it_l", "d2it_b_r0", "dit_b", "d2it_xl_classes"])
def test_any_part_in_any_order_is_the_same(config: Config, run: str) -> None:
    every = pipeline(config, run).draw(0, np.arange(12))
    assert every.images.shape == (12, 64, 64, 3) and every.images.dtype == np.uint8
    some = np.array([9, 2, 11, 3, 2])
    assert same(pipeline(config, run).draw(0, some), every[some])
    assert len(np.unique(every.images, axis=0)) == 12


@pytest.mark.parametrize("source", SOURCES)
def test_maps_too_depend_on_seed_and_index_alone(config: Config, source: str) -> None:
    one = pipeline(config, "d2it_l", maps=source)
    every = one.draw(0, np.arange(8))
    assert same(one.draw(0, np.array([6])), every[[6]])
    other = one.draw(1, np.arange(8))
    assert not np.array_equal(other.maps, every.maps)
    assert not np.array_equal(other.images, every.images)


def test_ancestral_noise_is_keyed_as_well(config: Config) -> None:
    ancestral = replace(config, sampling=replace(config.sampling, sampler="ddpm", steps=3))
    one = pipeline(ancestral, "d2it_l")
    assert same(one.draw(0, np.array([5])), one.draw(0, np.arange(8))[[5]])
    assert not same(one.draw(0, np.array([5])), pipeline(config, "d2it_l").draw(0, np.array([5])))


def in_precision(config: Config, run: str, precision: str, **measured: object) -> RunPipeline:
    sampling = replace(config.sampling, precision=precision)
    return pipeline(replace(config, sampling=sampling), run, **measured)


@pytest.mark.parametrize(("run", "guidance"), [("d2it_l", 1.0), ("d2it_xl_classes", 1.5)])
def test_bf16_draws_nearly_the_same(config: Config, run: str, guidance: float) -> None:
    """Within half a level of 255 in the mean: 8 bits are enough."""
    map = np.indices((8, 8)).sum(0) % 2
    exact, rough = (
        in_precision(config, run, precision, guidance=guidance).draw(0, np.arange(4), map).images
        for precision in ("fp32", "bf16")
    )
    assert not np.array_equal(exact, rough)
    assert np.abs(exact.astype(float) - rough).mean() < 0.5


def test_tf32_is_on_for_the_transformers_alone(config: Config, monkeypatch) -> None:
    """Not for the features that follow; a CPU has no TF32, and draws what it draws in fp32."""
    seen = set()
    one = in_precision(config, "d2it_l", "tf32")
    parts = {"map": one.maps.grain, "content": one.network}
    for name, part in parts.items():
        part.network.register_forward_pre_hook(
            lambda *_, name=name: seen.add((name, torch.get_float32_matmul_precision()))
        )
    decode = one.dvae.network.decode

    def looking(z: torch.Tensor) -> torch.Tensor:
        seen.add(("pixels", torch.get_float32_matmul_precision()))
        return decode(z)

    monkeypatch.setattr(one.dvae.network, "decode", looking)
    drawn = one.draw(0, np.arange(4))
    assert seen == {("map", "high"), ("content", "high"), ("pixels", "highest")}
    assert torch.get_float32_matmul_precision() == "highest"
    assert same(drawn, pipeline(config, "d2it_l").draw(0, np.arange(4)))


def test_recipes_name_the_precision_only_where_it_is_not_fp32(config: Config) -> None:
    known = sampling_recipe(config.sampling)
    assert "precision" not in known
    other = sampling_recipe(replace(config.sampling, precision="bf16"))
    assert other == known | {"precision": "bf16"}


def test_sources_of_maps_differ_in_maps_alone(config: Config) -> None:
    """The noise is the same, so evaluations are paired: equal maps give equal images."""
    predicted, random, truth = (pipeline(config, "d2it_l", maps=source) for source in SOURCES)
    given = predicted.draw(0, np.arange(4))
    assert not np.array_equal(given.maps, random.draw(0, np.arange(4)).maps)
    assert same(
        random.draw(0, np.arange(4), given.maps[1]), truth.draw(0, np.arange(4), given.maps[1])
    )


def test_true_maps_are_those_of_training_images_of_the_class(config: Config) -> None:
    maps = Maps(run_of(config, "dvae"), 0.5, "truth", None, DEVICE)
    indices = np.arange(28)
    drawn = maps.draw(0, indices, indices % 7)
    for label, map in zip(indices % 7, drawn, strict=True):
        of_class = np.flatnonzero(maps.latents.labels == label)
        known = [maps.latents.maps(0.5, of_class, mirrored) for mirrored in (False, True)]
        assert (torch.cat(known) == map).flatten(1).all(1).any()


def test_random_maps_have_the_ratio_and_no_more(config: Config) -> None:
    drawn = Maps(run_of(config, "dvae"), 0.3, "random", None, DEVICE).draw(0, np.arange(200), None)
    assert drawn.double().mean().item() == pytest.approx(0.3, abs=0.02)


def test_constant_maps(config: Config) -> None:
    assert not pipeline(config, "d2it_b_r0").draw(0, np.arange(4)).maps.any()
    assert pipeline(config, "dit_b").draw(0, np.arange(4)).maps.all()


def test_classes_are_balanced(config: Config) -> None:
    drawn = pipeline(config, "d2it_xl_classes").draw(0, np.arange(12))
    assert drawn.labels.tolist() == [i % 7 for i in range(12)]
    assert not pipeline(config, "d2it_l").draw(0, np.arange(12)).labels.any()


def test_guidance_and_milestones_change_the_images(config: Config) -> None:
    plain = pipeline(config, "d2it_xl_classes").draw(0, np.arange(4))
    for different in ({"guidance": 2.0}, {"at": 0.5}, {"weights": "raw"}):
        drawn = pipeline(config, "d2it_xl_classes", **different).draw(0, np.arange(4))
        assert np.array_equal(drawn.maps, plain.maps)
        assert not np.array_equal(drawn.images, plain.images)


@pytest.mark.parametrize("shared", [True, False])
def test_cells_of_a_coarse_code_stay_equal(config: Config, shared: bool) -> None:
    one, indices = pipeline(config, "d2it_l"), np.arange(4)
    one.diffusion = replace(config.diffusion, shared_noise=shared)
    maps = one.maps.draw(0, indices, None)
    z = one._latents(0, indices, indices, maps)
    assert torch.equal(copy_within(z, maps, 2), z)
    assert (maps == 0).any() and not torch.equal(copy_within(z, maps * 0, 2), z)


def test_refusals(config: Config) -> None:
    with pytest.raises(UserError, match="only content and DiT runs"):
        pipeline(config, "grain")
    with pytest.raises(UserError, match="Guidance needs a class-conditional network"):
        pipeline(config, "d2it_l", guidance=1.5).draw(0, np.arange(4))
    with pytest.raises(UserError, match="name one as `grain`"):
        Maps(run_of(config, "dvae"), 0.5, "predicted", None, DEVICE)
    other = load(overrides=[*OVERRIDES, "seed=5"])
    with pytest.raises(UserError, match="other settings than d2it_l has now"):
        pipeline(other, "d2it_l")


def damage(model: Path, change) -> None:
    """Change a model's weights as its own training would: with digests that fit."""
    weights = load_file(model / "model.safetensors")
    save_file({k: change(v) for k, v in weights.items()}, model / "model.safetensors")
    header = read_sealed(model / "model.json", made_by="")
    header["files"]["model.safetensors"]["sha256"] = file_digest(model / "model.safetensors")
    write_sealed(model / "model.json", header)


def test_diverged_networks_and_foreign_latents(config: Config) -> None:
    damage(paths.model(config, "dit_b"), lambda value: value * torch.nan)
    with pytest.raises(UserError, match="not finite"):
        pipeline(config, "dit_b").draw(0, np.arange(4))
    damage(paths.model(config, "dvae"), lambda value: value * 1.01)
    with pytest.raises(UserError, match="run `d2it encode dvae`"):
        pipeline(config, "d2it_l")
