"""Power-function averages of any width, made from snapshots of two."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from d2it import cli
from d2it.config import load
from d2it.errors import UserError
from d2it.files import read_sealed
from d2it.models import store
from d2it.runs import state
from d2it.runs.publish import finished, is_published, publish
from d2it.runs.snapshots import FILE, coefficients, exponent
from d2it.training.post_hoc_ema import PowerAverages
from tests import forked_run, tiny_run
from tests.tiny_world import OVERRIDES, build_world, enter

STEPS, BATCH, EVERY = 320, 16, 20  # EVERY: steps between snapshots


def test_relative_width_of_an_exponent() -> None:
    """The standard deviation of the weighting t^g over [0, 1], by sums over a fine grid."""
    t = (np.arange(100_000) + 0.5) / 100_000
    for width in (0.02, 0.05, 0.1, 0.25):
        weight = t ** exponent(width)
        mean = (weight * t).sum() / weight.sum()
        assert np.sqrt((weight * (t - mean) ** 2).sum() / weight.sum()) == pytest.approx(
            width, 1e-4
        )


@pytest.mark.parametrize(
    ("width", "within"), [(0.03, 3e-3), (0.05, 1e-6), (0.08, 3e-4), (0.1, 1e-6), (0.15, 1e-3)]
)
def test_any_width_is_had_from_two(width: float, within: float) -> None:
    """Of parameters that wander at random, against the average over all steps by its definition."""
    module = torch.nn.Linear(64, 1, bias=False)
    averages, rng = PowerAverages(module), np.random.default_rng(0)
    path = np.cumsum(rng.normal(size=(STEPS, 64)), axis=0)
    snapshots, values = [], []
    for step, weights in enumerate(path, start=1):
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weights))
        averages.update(step * BATCH, BATCH)
        if step % EVERY == 0:
            for key, average in averages.state_dict().items():
                snapshots.append((step * BATCH, float(key.split("/")[0])))
                values.append(average.numpy().astype(float)[0])
    # step n counts with the integral of t^g from n - 1 to n
    share = np.diff((np.arange(STEPS + 1) / STEPS) ** (exponent(width) + 1))
    truth = share @ path
    ours = coefficients(snapshots, (STEPS * BATCH, width)) @ np.array(values)
    assert np.linalg.norm(ours - truth) < within * np.linalg.norm(truth)


def test_snapshots_resume_bitwise_and_change_nothing_else(tmp_path: Path) -> None:
    """Killed, in two processes and extended; every other file is that of a run without them."""
    whole, parts, without = (tmp_path / name for name in ("whole", "parts", "without"))
    asked = "snapshot_images=100"
    assert forked_run.run(without) == 0, forked_run.errors(without)
    assert forked_run.run(whole, asked) == 0, forked_run.errors(whole)
    [process] = forked_run.start(parts, forked_run.SLOW, asked)
    forked_run.await_images(parts, 240)
    process.kill()
    forked_run.end([process])
    assert forked_run.run(parts, asked, "images=496", world=2) == 0, forked_run.errors(parts)
    assert forked_run.run(parts, asked) == 0, forked_run.errors(parts)
    found = forked_run.fingerprint(whole)
    assert forked_run.fingerprint(parts) == found
    kept = {name for name in found if name.endswith("power.safetensors")}
    marks = {f"state/milestone-{n}" for n in (112, 208, 304, 400, 432, 512, 608)}
    assert kept == {f"{folder}/power.safetensors" for folder in {*marks, f"state/{640:012d}"}}
    weights = {k: v for k, v in forked_run.fingerprint(without).items() if not k.endswith(".json")}
    assert weights == {k: found[k] for k in weights}


def test_published_with_the_widths_that_evaluations_name(tmp_path: Path) -> None:
    folder, model = tmp_path / "run", tmp_path / "model"
    assert forked_run.run(folder, "snapshot_images=100") == 0, forked_run.errors(folder)
    plan = replace(tiny_run.tiny_plan(folder, snapshot_images=100), widths=(0.05, 0.08))
    done = finished(plan, print)
    assert done is not None
    publish(plan, done, model)
    assert is_published(plan, model)
    assert not is_published(replace(plan, widths=(0.12,)), model)
    header = store.read_model(model)
    assert store.weights_name(header, weights=0.08) == "width-0.08"
    with pytest.raises(UserError, match=r"No average of relative width 0.12 was published"):
        store.weights_name(header, weights=0.12)
    end = state.open_state(folder / "state" / f"{640:012d}").tensors(FILE)
    for name, ours in store.load_weights(model, "width-0.05").items():  # one that was kept
        torch.testing.assert_close(ours, end[f"0.05/{name}"], rtol=1e-5, atol=1e-6)
    # a snapshot that is lost is made again, from the last state before it
    (folder / "state" / "milestone-608" / "power.safetensors").unlink()
    assert finished(plan, print) is None
    before = forked_run.fingerprint(folder).keys()
    assert forked_run.run(folder, "snapshot_images=100") == 0
    assert forked_run.fingerprint(folder).keys() > before
    assert read_sealed(folder / "done.json", made_by="") == done


def test_from_training_to_an_exported_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands themselves: what an evaluation names is published, measured, drawn, exported."""
    enter(tmp_path, monkeypatch)
    build_world([])
    asked = [*OVERRIDES, "training.dit.snapshot_images=32"]
    sharp = [*asked, "+runs.dit.dit_b.evaluations={main: {}, sharp: {weights: 0.08}}"]
    draw = ["sample", "--run", "dit_b", "--seeds", "0-3", "--format", "packed"]
    assert cli.main(["train", "dit_b", *asked]) == 0
    assert cli.main([*draw, "--weights", "0.08", "--out", "none", *asked]) == 2  # not published
    assert cli.main(["train", "dit_b", *sharp]) == 0  # afterwards: no step is taken
    assert Path("results/smoke/models/dit_b/width-0.08.safetensors").is_file()
    [log] = Path("runs").glob("dit_b-*/log.txt")
    assert log.read_text().count("first step") == 1
    assert cli.main(["evaluate", "dit_b", *sharp]) == 0
    found = json.loads(Path("results/smoke/evaluations/dit_b.json").read_text())["evaluations"]
    assert found["sharp"]["recipe"]["weights"] == 0.08
    assert found["sharp"]["metrics"]["fid"] != found["main"]["metrics"]["fid"]
    assert cli.main([*draw, "--weights", "0.08", "--out", "here", *sharp]) == 0
    assert cli.main(["export", "dit_b", "--weights", "0.08", "--out", "alone", *sharp]) == 0
    draw[2] = "alone"
    assert cli.main([*draw, "--out", "there"]) == 0
    assert Path("here/images.npy").read_bytes() == Path("there/images.npy").read_bytes()


def test_a_width_without_snapshots_is_refused() -> None:
    with pytest.raises(UserError, match=r"set training.dit.snapshot_images"):
        load(overrides=["scale=smoke", "+runs.dit.dit_b.evaluations.sharp={weights: 0.08}"])
    with pytest.raises(UserError, match=r"weights is 0.5, but must be above 0 and at most 0.25"):
        load(overrides=["scale=smoke", "+runs.dit.dit_b.evaluations.sharp={weights: 0.5}"])
