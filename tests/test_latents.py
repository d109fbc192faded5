"""Latents: what is encoded comes back, mirrors agree, scales hold, and nothing is done twice."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from d2it.cli import main
from d2it.config import Config, load, paths
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import read_json, read_sealed, write_sealed
from d2it.grains.calibrate import calibrate
from d2it.grains.maps import grain_map, route
from d2it.images.packed import open_images
from d2it.images.prepare import prepare
from d2it.latents.cache import Latents, mirror, route_sample
from d2it.latents.encode import encode
from d2it.models.architecture import architecture
from d2it.models.dvae import Dvae, to_network
from d2it.models.store import load_model, save_model
from d2it.shares import Share

OVERRIDES = ["scale=smoke", "data.photos.train=40", "data.photos.test=8"]


def publish(config: Config, seed: int = 0) -> None:
    """A DVAE that was never trained, as training would publish it."""
    torch.manual_seed(seed)
    shape = architecture(run_of(config, "dvae"))
    weights = {"model": Dvae(**shape).state_dict()}
    inputs = {"images": open_images(config, "photos", "train").digest}
    recipe = run_of(config, "dvae").recipe
    save_model(paths.model(config, "dvae"), "dvae", shape, recipe, 96, 8, inputs, weights)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d2it.latents.encode.SHARD", 32)  # so that there are two
    config = load(overrides=OVERRIDES)
    prepare(config, "photos")
    calibrate(config, "photos")
    publish(config)
    return config


def with_ratios(config: Config, *ratios: float) -> Config:
    run = dataclasses.replace(config.runs.dvae["dvae"], ratios=list(ratios))
    return dataclasses.replace(config, runs=dataclasses.replace(config.runs, dvae={"dvae": run}))


def test_what_is_encoded_comes_back(config):
    assert encode(run_of(config, "dvae"))
    folder = paths.latents(config, "dvae")
    latents, images = Latents.open(folder, "train"), open_images(config, "photos", "train")
    assert (len(latents), latents.side, latents.factors, latents.classes) == (40, 16, [8, 4], 7)
    assert np.array_equal(latents.labels, images.labels)
    assert len(Latents.open(folder, "test")) == 8
    indices = np.array([39, 0, 33, 5])  # over both shards, in any order
    batch = latents.fetch(indices)
    assert torch.equal(batch["label"], torch.from_numpy(images.labels[indices]))
    model = load_model(paths.model(config, "dvae"))
    x = to_network(torch.from_numpy(images[indices]))
    for mirrored in (0, 1):
        with torch.no_grad():
            moments = model.encode(x.flip(-1) if mirrored else x)
        for grain, (mean, logvar) in enumerate(moments):
            assert batch[f"mean_{grain}"].shape[1:] == (2, *latents.noise_shapes()[grain])
            assert torch.allclose(batch[f"mean_{grain}"][:, mirrored].float(), mean, atol=2e-3)
            assert torch.allclose(batch[f"logvar_{grain}"][:, mirrored].float(), logvar, atol=2e-3)


def test_mirrors_agree(config):
    """The map of the mirrored image is the mirrored map."""
    from d2it.grains.entropy import entropy_map

    encode(run_of(config, "dvae"))
    latents = Latents.open(paths.latents(config, "dvae"), "train")
    indices = np.arange(16)
    pixels = torch.from_numpy(open_images(config, "photos", "train")[indices])
    mirrored = torch.arange(16) % 2 == 0
    turned = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(2), pixels)
    expected = grain_map(entropy_map(turned, 8), latents.cuts(0.5))
    assert torch.equal(latents.maps(0.5, indices, mirrored), expected)
    assert torch.equal(latents.maps(0.5, indices, True), latents.maps(0.5, indices).flip(-1))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_scale_gives_unit_deviation(config, ratio):
    encode(run_of(config, "dvae"))
    latents = Latents.open(paths.latents(config, "dvae"), "train")
    generator, drawn = torch.Generator().manual_seed(0), []
    batch = latents.fetch(np.arange(40))
    for turn in (0, 1):
        noises = [torch.randn((40, *s), generator=generator) for s in latents.noise_shapes()]
        mirrored = torch.full((40,), bool(turn))
        z, map = route_sample(batch, noises, mirrored, latents.cuts(ratio), latents.scale(ratio))
        drawn.append(z)
    assert torch.cat(drawn).std() == pytest.approx(1, abs=0.02)
    assert latents.reached(ratio) == pytest.approx(ratio, abs=0.01)
    assert (map == 1).double().mean() == pytest.approx(ratio, abs=0.01)
    used = [std is not None for std in latents.std(ratio)]
    assert used == [ratio < 1, ratio > 0]


def test_route_sample_samples_before_copying(config):
    encode(run_of(config, "dvae"))
    latents = Latents.open(paths.latents(config, "dvae"), "train")
    batch = latents.fetch(np.arange(4))
    noises = [torch.randn(4, *shape) for shape in latents.noise_shapes()]
    mirrored = torch.tensor([True, False, True, False])
    z, map = route_sample(batch, noises, mirrored, latents.cuts(0.5), 2.0)
    for i in range(4):
        codes = [
            batch[f"mean_{g}"][i, int(mirrored[i])].float()
            + torch.exp(batch[f"logvar_{g}"][i, int(mirrored[i])].float() / 2) * noises[g][i]
            for g in range(2)
        ]
        expected = 2 * route([code[None] for code in codes], map[i : i + 1])[0]
        assert torch.allclose(z[i], expected)
    turned = torch.stack([map[i].flip(-1) if mirrored[i] else map[i] for i in range(4)])
    assert torch.equal(turned, mirror(map, mirrored))


def test_nothing_is_done_twice_and_ratios_are_added(config):
    few = with_ratios(config, 0.5)
    assert encode(run_of(few, "dvae")) and not encode(run_of(few, "dvae"))
    folder = paths.latents(config, "dvae")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    old = read_json(folder / "manifest.json", made_by="")["ratios"]
    assert encode(run_of(with_ratios(config, 0.5, 0.7, 1.0), "dvae"))
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    new = read_json(folder / "manifest.json", made_by="")["ratios"]
    assert before == after and new["0.5"] == old["0.5"] and sorted(new) == ["0.5", "0.7", "1"]


def test_goes_on_where_it_stopped(config):
    """Killed while the second shard was written, only that one is made again."""
    encode(run_of(config, "dvae"))
    folder = paths.latents(config, "dvae")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    encode(run_of(config, "dvae"), Share(1, 1))
    [parts] = folder.parent.glob(".dvae.*.parts")
    (parts / "train-00000032-00000040.safetensors").unlink()
    (parts / "dvae/train-00001-grain0.bin").unlink()
    (parts / "dvae/.train-00001-grain0.bin.1.part").write_bytes(b"")
    kept = (parts / "dvae/train-00000-grain0.bin").stat().st_mtime_ns
    assert encode(run_of(config, "dvae"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert (folder / "train-00000-grain0.bin").stat().st_mtime_ns == kept
    assert [path.name for path in folder.parent.iterdir()] == ["dvae"]


@pytest.mark.parametrize("folder", ["a run's", "none", "one that cannot be written"])
def test_the_seconds_are_kept_where_the_dvae_was_trained(config, folder):
    """Of one from elsewhere there is no run: `d2it status` would list a folder."""
    run = run_of(config, "dvae")
    if folder != "none":
        run.folder.mkdir(parents=True)
    if folder == "one that cannot be written":
        (run.folder / "latents").touch()
    assert encode(run)
    assert [path.name for path in run.latents.parent.iterdir()] == ["dvae"]
    kept = paths.took(run.folder / "latents")
    assert kept.is_file() == (folder == "a run's") and run.folder.exists() == (folder != "none")


def test_other_weights_are_encoded_anew(config):
    encode(run_of(config, "dvae"))
    folder = paths.latents(config, "dvae")
    first = read_json(folder / "manifest.json", made_by="")
    publish(config, seed=1)
    assert encode(run_of(config, "dvae"))
    second = read_json(folder / "manifest.json", made_by="")
    assert first["dvae_digest"] != second["dvae_digest"]
    assert first["ratios"]["0.5"]["scale"] != second["ratios"]["0.5"]["scale"]


def test_a_ratio_that_was_not_measured(config):
    encode(run_of(with_ratios(config, 0.5), "dvae"))
    latents = Latents.open(paths.latents(config, "dvae"), "train")
    with pytest.raises(UserError, match="d2it encode dvae"):
        latents.scale(0.7)


def test_a_ratio_that_is_missed(config):
    """Thresholds of other images: the share that they really give is recorded, and warned of."""
    path = paths.thresholds(config, "photos")
    stored = read_sealed(path, made_by="")
    table = stored["tables"]["8"]
    table["quantiles"] = [value * 0.5 for value in table["quantiles"]]
    write_sealed(path, stored)
    with pytest.warns(UserWarning, match=r"ratio 0\.5 was asked for"):
        encode(run_of(with_ratios(config, 0.5), "dvae"))
    latents = Latents.open(paths.latents(config, "dvae"), "train")
    assert latents.reached(0.5) > 0.55


def test_bad_input(config, capsys):
    encode(run_of(config, "dvae"))
    folder = paths.latents(config, "dvae")
    with pytest.raises(UserError, match="no split 'val'"):
        Latents.open(folder, "val")
    path = folder / "train-00000-grain1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path.name} is missing or damaged"):
        Latents.open(folder, "train")
    assert main(["encode", "grain", *OVERRIDES]) == 2
    assert "grain is not a DVAE run" in capsys.readouterr().err
    other = load(overrides=[*OVERRIDES, "training.dvae.learning_rate=0.5"])
    with pytest.raises(UserError, match="other settings"):
        encode(run_of(other, "dvae"))
    Path(paths.model(config, "dvae"), "model.json").unlink()
    assert main(["encode", "dvae", *OVERRIDES]) == 2
    assert "d2it train dvae" in capsys.readouterr().err
