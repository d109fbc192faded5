"""The training loop on a task of milliseconds. What kills and damages do to it: tests/faults."""

import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor

from d2it.cli import system_sentence
from d2it.clock import Order, crossed, generator, milestone, seed_of
from d2it.config import load, paths
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import write_json
from d2it.jobs.local import free_port
from d2it.machine.device import multiplies_bf16
from d2it.runs import state
from d2it.runs.lease import lease
from d2it.runs.plan import make_plan
from d2it.runs.publish import finished, publish
from d2it.runs.record import claim
from d2it.runs.signals import stall_timeout
from d2it.training.ema import Ema
from d2it.training.log import peak_of, utilisation
from d2it.training.loop import train

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run  # noqa: E402

# Real processes that can be killed, but forked from one that has imported torch: quick to start.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["d2it.training.loop", "torch._dynamo", "torch.distributed.tensor"]
)
MEASURED = {"grad_norm/critic", "images_per_second", "tflops", "data_wait", "memory_bytes"}
SLOW = "pause=0.02"  # 40 steps in half a second, two at a time: time to be killed in


def start(folder: Path, *settings: str, world: int = 1, limit: int = 0) -> list:
    port = free_port()
    started = [
        PROCESSES.Process(
            target=tiny_run.child, args=(str(folder), settings, rank, world, port, limit)
        )
        for rank in range(world)
    ]
    for process in started:
        process.start()
    return started


def end(started: list) -> int:
    """The first exit code that is not 0 (negative: killed by that signal)."""
    for process in started:
        process.join(60)
        assert process.exitcode is not None, "a process hangs"
    return next((p.exitcode for p in started if p.exitcode), 0)


def run(folder: Path, *settings: str, world: int = 1, limit: int = 0) -> int:
    return end(start(folder, *settings, world=world, limit=limit))


def errors(folder: Path) -> str:
    return Path(f"{folder}.err").read_text()


def await_images(folder: Path, images: int) -> None:
    """Wait until a run has saved its state at `images`, or later."""
    for _ in range(600):
        if any(int(p.name) >= images for p in (folder / "state").glob("[0-9]*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"{folder} does not reach {images} images: {errors(folder)}")


def fingerprint(folder: Path, images: int = 640) -> dict[str, bytes]:
    """All that must not depend on what happened on the way."""
    root = folder / "state"
    files = [folder / "done.json", *(root / f"{images:012d}").iterdir()]
    files += [path for mark in root.glob("milestone-*") for path in mark.iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run(folder) == 0, errors(folder)
    found = fingerprint(folder)
    assert len(found) == 1 + 4 + 2 * 2
    return found


def test_two_processes_are_one(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    assert run(tmp_path / "run", world=2) == 0, errors(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == undisturbed


def test_number_of_processes_changes(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """2 → 1 → 2: stopped by a signal to one of two, killed alone, finished by two."""
    folder = tmp_path / "run"
    both = start(folder, SLOW, world=2)
    await_images(folder, 80)
    os.kill(both[1].pid, signal.SIGTERM)
    assert end(both) == 128 + signal.SIGTERM, errors(folder)
    alone = start(folder, SLOW)
    await_images(folder, 320)
    alone[0].kill()
    assert end(alone) == -signal.SIGKILL
    assert run(folder, world=2) == 0, errors(folder)
    assert fingerprint(folder) == undisturbed
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert [s["processes"] for s in starts] == [2, 1, 2]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def in_four_shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("shards") / "run"
    assert run(folder, "shards=4") == 0, errors(folder)
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return state.open_state(folder / "state" / f"{640:012d}").tensors("raw")


@pytest.mark.parametrize("world", [2, 4])
def test_four_shards_in_any_number_of_processes(
    tmp_path: Path, in_four_shards: dict[str, torch.Tensor], world: int
) -> None:
    """Sums of four terms depend on their order, so beyond two shards it is equality to 1e-4."""
    folder = tmp_path / "run"
    assert run(folder, "shards=4", world=world) == 0, errors(folder)
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, in_four_shards[name], rtol=1e-4, atol=1e-4)


def test_four_shards_in_one_number_of_processes(
    tmp_path: Path, in_four_shards: dict[str, torch.Tensor]
) -> None:
    """Accumulated, stopped and gone on with: bitwise."""
    folder = tmp_path / "run"
    assert run(folder, "shards=4", "images=320") == 0, errors(folder)
    assert run(folder, "shards=4") == 0, errors(folder)
    assert "resumed at 320/640" in errors(folder)
    assert all(torch.equal(t, in_four_shards[name]) for name, t in weights(folder).items())


def test_bf16_goes_on_bitwise(tmp_path: Path) -> None:
    """Autocast on the CPU, with a warning where that is slow; weights, moments and averages stay in
    fp32."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, "precision=bf16") == 0, errors(whole)
    assert run(parts, "precision=bf16", "images=320") == 0, errors(parts)
    assert run(parts, "precision=bf16") == 0, errors(parts)
    assert fingerprint(parts) == fingerprint(whole)
    assert ("imitates bf16" in errors(whole)) == (not multiplies_bf16())
    assert all(t.dtype == torch.float32 for t in weights(whole).values())


def test_no_save_without_space(tmp_path: Path) -> None:
    """Asked of the real file system, before anything is written."""
    large = torch.empty(2**60, device="meta", dtype=torch.int8)
    with pytest.raises(UserError, match="GB free but .* GB are needed"):
        state.save(tmp_path / "state" / "1", 1, {"model": {"weight": large}}, {})
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("world", [1, 2])
def test_loss_that_is_not_finite(tmp_path: Path, world: int) -> None:
    """It stops everywhere, also where the bad shard was not; what is on disk is from before."""
    folder = tmp_path / "run"
    assert run(folder, "fail_at=320", world=world) == 2
    assert "not finite in step 20" in errors(folder)
    dump = json.loads((folder / "bad-step-20.json").read_text())
    assert dump["images"] == 320
    assert dump["indices"] == Order(tiny_run.SEED, 100).indices(320, 16).tolist()
    newest = state.latest(folder / "state", 640, (), print)
    assert newest is not None and newest.images == 320
    for stem in ("model", "raw", "rest"):
        assert all(torch.isfinite(t).all() for t in newest.tensors(stem).values())


def test_masked_updates_leave_everything_as_it_was(tmp_path: Path) -> None:
    """From the first bad step on, nothing changes although the host does not look, but averages,
    which stay finite and are never saved.
    """
    from d2it.training.loop import Loop, make_accelerator

    plan = tiny_run.tiny_plan(tmp_path, milestones=())
    task = tiny_run.TinyTask(plan.training, fail_at=320)
    loop = Loop(plan, task, make_accelerator(plan, "cpu"), 0.0)
    loop.batches.start(0, 640)
    before = None
    for images in range(0, 640, 16):
        if images == 320:
            contents = loop.trainer.contents()
            before = {(s, k): t.clone() for s, ts in contents.items() for k, t in ts.items()}
        loop.trainer.step(loop.batches.take(), images)
    loop.batches.close()
    assert before is not None and int(loop.trainer.first_bad) == 20
    for stem, tensors in loop.trainer.contents().items():
        for name, tensor in tensors.items():
            if stem == "model":
                assert tensor.isfinite().all(), name
            else:
                assert torch.equal(tensor, before[stem, name]), name
    with pytest.raises(UserError, match="not finite in step 20"):
        loop._save(640)
    assert not plan.state.exists()


def test_longer_run_extends(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Also from an end that is no multiple of the log interval."""
    folder = tmp_path / "run"
    assert run(folder, "images=496") == 0
    assert json.loads((folder / "done.json").read_text())["images"] == 496
    assert run(folder) == 0
    assert "resumed at 496/640" in errors(folder)
    assert fingerprint(folder) == undisturbed


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


@pytest.mark.parametrize("minutes", ["soon", "0", "nan", "inf"])
def test_patience_is_a_number_of_minutes(monkeypatch: pytest.MonkeyPatch, minutes: str) -> None:
    assert stall_timeout().total_seconds() == 600
    monkeypatch.setenv("D2IT_STALL_MINUTES", minutes)
    with pytest.raises(UserError, match=f"D2IT_STALL_MINUTES is '{minutes}'"):
        stall_timeout()


@pytest.mark.parametrize("threads", ["some", "0", "1.5"])
def test_threads_are_a_whole_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    from d2it.training.loop import make_accelerator

    monkeypatch.setenv("D2IT_THREADS", threads)
    with pytest.raises(UserError, match="D2IT_THREADS must be a whole number"):
        make_accelerator(tiny_run.tiny_plan(tmp_path), "cpu")


def test_a_process_that_never_comes_is_given_up_before_a_gpu_waits(tmp_path: Path) -> None:
    """By gloo, in half the time that NCCL has until its watchdog aborts the process."""
    port, told = free_port(), tmp_path / "told"
    ranks = [
        PROCESSES.Process(target=tiny_run.meet, args=(rank, port, "0.02", str(told)))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    ranks[0].join(60)
    ranks[1].kill()
    assert ranks[0].exitcode == 0 and "0.02 minutes (D2IT_STALL_MINUTES)" in told.read_text()


@pytest.mark.parametrize(("gpus", "patience"), [(False, 600), (True, 1200)])
def test_nccl_has_twice_the_patience_of_gloo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: bool, patience: int
) -> None:
    from d2it.training import loop

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    asked: dict[str, Any] = {"device": torch.device("cpu")}
    monkeypatch.setattr(loop, "Accelerator", lambda **given: SimpleNamespace(**asked | given))
    made: Any = loop.make_accelerator(tiny_run.tiny_plan(tmp_path), "auto")
    [group] = [h for h in made.kwargs_handlers if hasattr(h, "timeout")]
    assert group.timeout.total_seconds() == patience


def test_shards_and_processes_must_fit(tmp_path: Path) -> None:
    assert run(tmp_path / "run", "shards=1", world=2) == 2
    assert "2 processes cannot share the 1 shards" in errors(tmp_path / "run")


def test_metrics_have_one_line_per_interval(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        [process] = start(folder, SLOW)
        process.join(0.4)
        process.kill()
        end([process])
    assert run(folder) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [*range(48, 640, 48), 640]
    assert lines[-1]["loss/model"] < lines[0]["loss/model"]
    assert set(lines[-1]) >= MEASURED
    assert lines[-1]["tflops"] > 0 and lines[-1]["mfu"] is None  # a CPU's peak is not known


def test_tracker_gets_the_rows_and_changes_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """From one of two processes; after a kill it goes on along the same axis."""
    folder = tmp_path / "run"
    [process] = start(folder, SLOW, "tracker=notebook")
    await_images(folder, 320)
    process.kill()
    end([process])
    assert run(folder, "tracker=notebook", world=2) == 0, errors(folder)
    assert fingerprint(folder) == undisturbed
    rows = [json.loads(line) for line in (folder / "tracker" / "rows.jsonl").open()]
    events = [list(row) for step, row in rows if step is None]
    assert events == [["started by"], ["started by"], ["finished"]]
    sent = {step: row for step, row in rows if step is not None}  # repeated ones: the last
    truth = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert list(sent.values()) == [{k: v for k, v in r.items() if v is not None} for r in truth]
    assert list(sent) == [row["images"] for row in truth]


def test_tracker_that_fails_is_one_warning(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "broken").touch()
    assert run(folder, "tracker=notebook") == 0, errors(folder)
    assert fingerprint(folder) == undisturbed
    said = "warning: notebook failed (nobody answers): it is sent nothing more."
    assert (folder / "log.txt").read_text().count("notebook") == 1 and said in errors(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "'tensorbord' (did you mean 'tensorboard'?): choose one of"),
        ("wandb", "that package is not installed: install it beside d2it"),
    ],
)
def test_tracker_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    from accelerate import tracking

    from d2it.training.loop import make_accelerator

    monkeypatch.setattr(tracking, "_available_trackers", [])
    monkeypatch.setenv("D2IT_TRACKER", name)
    with pytest.raises(UserError, match=re.escape(said)):
        make_accelerator(tiny_run.tiny_plan(tmp_path), "cpu")


def test_published_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d2it.models import store

    folder = tmp_path / "run"
    assert run(folder) == 0
    plan = tiny_run.tiny_plan(folder)
    done = finished(plan, print)
    assert done is not None
    assert finished(tiny_run.tiny_plan(folder, images=1280), print) is None
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


def test_share_of_the_peak() -> None:
    peak = peak_of("NVIDIA H100 80GB HBM3", "bf16")
    assert peak == 989e12 and peak_of("NVIDIA H100 80GB HBM3", "fp32") == 494e12
    assert utilisation(0.4 * peak, peak) == {"tflops": 395.6, "mfu": 0.4}
    assert peak_of("cpu", "bf16") is None


def test_order_is_a_permutation_per_epoch() -> None:
    order = Order(0, 10)
    stream = order.indices(0, 50)
    assert all(sorted(stream[i : i + 10]) == list(range(10)) for i in range(0, 50, 10))
    assert len({tuple(stream[i : i + 10]) for i in range(0, 50, 10)}) == 5
    assert np.array_equal(Order(0, 10).indices(7, 23), stream[7:30])
    assert not np.array_equal(Order(1, 10).indices(0, 50), stream)


def test_clock() -> None:
    assert milestone(0.34, 6400, 32) == 2176
    assert milestone(0.0, 6400, 32) == 32
    assert milestone(1.0, 1000, 32) == 992
    assert [i for i in range(16, 161, 16) if crossed(i, 16, 48)] == [48, 96, 144]
    assert seed_of(0, "a", 1) != seed_of(0, "a", 2)
    draw = torch.randn(4, generator=generator(0, "dit", 5))
    assert torch.equal(draw, torch.randn(4, generator=generator(0, "dit", 5)))


def test_average_forgets_half_in_a_half_life() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    ema = Ema(module, half_life=320, batch=32)
    torch.nn.init.zeros_(module.weight)
    for _ in range(10):
        ema.update()
    assert ema.state_dict()["weight"].item() == pytest.approx(0.5)
    assert Ema(module, 0, 32).state_dict()["weight"].item() == 0


def test_a_node_without_a_compiler_is_one_sentence(tmp_path):
    """Blocks are compiled in the first step; here, by a real compiler call before it."""

    def make_task():
        torch.compile(lambda x: torch.sin(x) + x.cos())(torch.ones(8))

    missing = {"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}
    with inductor.patch(missing), pytest.raises(UserError) as error:
        train(tiny_run.tiny_plan(tmp_path / "run"), make_task, "cpu")
    assert "load a C and C++ compiler" in str(error.value)
    assert "training.dit.compile=false" in str(error.value) and "\n" not in str(error.value)
    with inductor.patch(missing), pytest.raises(RuntimeError) as raised:
        make_task()  # as any other verb meets it
    assert "sampling.compile=false" in (sentence := system_sentence(raised.value))
    assert "\n" not in sentence


def test_a_compiler_that_fails_is_not_called_missing(tmp_path, monkeypatch):
    """A backend's own error: the cure is told, and the log keeps the traceback for a report."""

    def failing(module, inputs):
        raise ValueError("no such lowering")

    def loss(learner, networks, batch, images_seen):
        return torch.compile(lambda x: x.sin(), backend=failing)(torch.ones(8))

    plan = tiny_run.tiny_plan(tmp_path / "run")
    task = tiny_run.TinyTask(plan.training)
    monkeypatch.setattr(task, "loss", loss)
    with pytest.raises(UserError, match=r"torch could not compile blocks \(.*no such lowering"):
        train(plan, lambda: task, "cpu")
    log = (plan.folder / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log and "in failing" in log
