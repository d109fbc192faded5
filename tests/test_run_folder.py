"""A run folder: one command at a time, of one recipe, with room on its disk; its publishing."""

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2it.config import load, paths
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import write_json
from d2it.runs import state
from d2it.runs.lease import lease
from d2it.runs.plan import make_plan
from d2it.runs.publish import finished, publish
from d2it.runs.record import claim
from tests import tiny_run
from tests.forked import PROCESSES
from tests.forked_run import end, errors, fingerprint, run, start


def test_second_process_gets_one_sentence(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    first = start(folder, "pause=0.4")
    for _ in range(300):
        if (folder / "heartbeat.json").exists():
            break
        time.sleep(0.02)
    assert run(folder) == 2
    said = [line for line in errors(folder).splitlines() if line.startswith("d2it: error")]
    assert len(said) == 1 and f"process {first[0].pid} on" in said[0]
    waiting = start(folder, "wait=yes")
    first[0].kill()
    assert end(waiting) == 0
    assert fingerprint(folder) == undisturbed


def test_heartbeat_from_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks do not reach, a live heartbeat refuses and a silent one does not."""
    monkeypatch.setattr("d2it.runs.lease.HEARTBEAT", 0.3)
    path = tmp_path / "heartbeat.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": 7}))
    with lease(tmp_path):
        assert json.loads(path.read_text())["host"] == socket.gethostname()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": 7}))
    other = PROCESSES.Process(target=tiny_run.beat, args=(str(path),))
    other.start()
    try:
        while json.loads(path.read_text())["beat"] == 7:
            time.sleep(0.05)
        with pytest.raises(UserError, match="process 1 on elsewhere"), lease(tmp_path):
            pass
    finally:
        other.kill()
        other.join()


def test_another_recipe_or_changed_data(tmp_path: Path) -> None:
    plan = tiny_run.tiny_plan(tmp_path)
    claim(plan)
    claim(replace(plan, training=replace(plan.training, images=1280)))
    with pytest.raises(UserError, match="settings.learning_rate differs"):
        claim(replace(plan, recipe={"settings": {"learning_rate": 1.0}}))
    plan = replace(plan, folder=tmp_path / "data", inputs={"images": "a"})
    claim(plan)
    claim(replace(plan, inputs={"the same under another scale's name": "a"}))
    with pytest.raises(UserError, match="images has changed since"):
        claim(replace(plan, inputs={"images": "b"}))


def test_measuring_another_ratio_is_no_change_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(overrides=["scale=smoke"])
    path = paths.latents(config, "dvae") / "manifest.json"

    def inputs(files: str, **ratios: float) -> dict[str, str]:
        write_json(path, {"files": files, "ratios": ratios})
        return make_plan(run_of(config, "d2it_b")).inputs

    begun = inputs("a", **{"0.5": 1.0})
    assert inputs("a", **{"0.5": 1.0, "0.7": 2.0}) == begun
    assert inputs("a", **{"0.5": 3.0}) != begun
    assert inputs("b", **{"0.5": 1.0}) != begun


def test_no_save_without_space(tmp_path: Path) -> None:
    """Asked of the real file system, before anything is written."""
    large = torch.empty(2**60, device="meta", dtype=torch.int8)
    with pytest.raises(UserError, match="GB free but .* GB are needed"):
        state.save(tmp_path / "state" / "1", 1, {"model": {"weight": large}}, {})
    assert not list(tmp_path.iterdir())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_published_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d2it.models import store

    folder = tmp_path / "run"
    assert run(folder) == 0
    plan = tiny_run.tiny_plan(folder)
    done = finished(plan, print)
    assert done is not None
    assert finished(tiny_run.tiny_plan(folder, images=1280), print) is None
    said: list[str] = []
    assert finished(replace(plan, recipe={"settings": {"learning_rate": 1.0}}), said.append) is None
    assert said == [f"{folder / 'done.json'} is of another recipe than tiny: it is written again."]
    publish(plan, done, tmp_path / "model")
    publish(plan, done, tmp_path / "model")  # again, over the first
    header = store.read_model(tmp_path / "model")
    assert header["images"] == 640 and header["extra"]["final"]["error"] > 0
    assert store.weights_name(header) == "model"
    assert store.weights_name(header, weights="raw") == "raw"
    assert store.weights_name(header, at=208 / 640) == "milestone-208"
    task = tiny_run.TinyTask(plan.training)
    task.learners[0].module.load_state_dict(store.load_weights(tmp_path / "model", "milestone-208"))
    flip(tmp_path / "model" / "model.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        store.load_weights(tmp_path / "model")
