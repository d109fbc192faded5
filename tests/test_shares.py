"""Stages in many processes: the same bytes from any number of shares, whoever is killed."""

import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from d2it import cli
from d2it.config import Config, load, paths
from d2it.config.run import run_of
from d2it.evaluation import reference
from d2it.evaluation import samples as generation
from d2it.jobs.spread import _start
from d2it.latents import encode
from d2it.machine.device import processor
from d2it.runs import provenance
from d2it.shares import Share
from tests.forked import Forked
from tests.tiny_world import OVERRIDES, build_world, enter

RUN = "dit_b"
SEEDS = [*OVERRIDES, "evaluation.seeds=[0,1,2]"]  # a unit each
COMMAND = ["evaluate", RUN, *SEEDS]


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch, block=16)  # as other processes
        build_world([RUN])
        yield load(overrides=SEEDS)


@pytest.fixture(scope="module")
def whole(config: Config) -> bytes:
    """The evaluation by one process."""
    assert cli.main(COMMAND) == 0
    return forgotten(config)


def forgotten(config: Config) -> bytes:
    """The evaluation's bytes; nothing of it is left."""
    found = paths.evaluation(config, RUN).read_bytes()
    shutil.rmtree(run_of(config, RUN).folder)
    paths.evaluation(config, RUN).unlink()
    return found


def units(config: Config) -> list[Path]:
    return sorted(run_of(config, RUN).folder.rglob("*.parts/*.safetensors"))


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_every_unit_is_in_one_share(parts: int) -> None:
    for before in range(4):
        taken = [Share(part + 1, parts).take(range(9), before) for part in range(parts)]
        assert sorted(unit for share in taken for unit in share) == list(range(9))


def test_shares_of_an_evaluation(
    config: Config, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three machines, one after another; putting together computes nothing again."""
    for part in (1, 2, 3):
        assert cli.main([*COMMAND, "--share", f"{part}/3"]) == 0
        assert not paths.evaluation(config, RUN).exists()
    assert len(units(config)) == 3
    monkeypatch.delattr(generation, "one_shard")
    assert cli.main(COMMAND) == 0
    assert forgotten(config) == whole


def test_units_of_several_kinds_of_gpu_are_told(config: Config, whole: bytes) -> None:
    """One sentence; what they were computed on is recorded beside the evaluation, not in it."""
    paths.provenance(config, RUN).unlink()  # else the first maker of these bytes is kept
    assert cli.main([*COMMAND, "--share", "1/1"]) == 0
    one = units(config)[1]
    save_file(load_file(one), one, {"device": "NVIDIA H200"})
    with pytest.warns(UserWarning, match="main of dit_b: computed on several kinds.*; NVIDIA H20"):
        assert cli.main(COMMAND) == 0
    assert provenance.of_run(run_of(config, RUN))["devices"] == sorted([processor(), "NVIDIA H200"])
    assert forgotten(config) == whole
    paths.provenance(config, RUN).unlink()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*kinds of device")
        assert cli.main(COMMAND) == 0
    assert provenance.of_run(run_of(config, RUN))["devices"] == [processor()]
    assert forgotten(config) == whole


def test_each_process_has_a_gpu_by_the_name_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn, numbers and UUIDs alike; a real process says what it was given."""
    told = tmp_path / "python"
    told.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES"\n')
    told.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(told))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937,MIG-46f0")
    read, write = os.pipe()
    for part in (1, 2, 3):
        _start([], Share(part, 3), tmp_path, write).wait()
    os.close(write)
    with open(read) as said:
        assert said.read().split() == ["GPU-8932f937", "MIG-46f0", "GPU-8932f937"]


def start(*words: str) -> Forked:
    return Forked("d2it", *words, "--processes", "2")


def workers_of(process: Forked) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_kills_of_a_worker_and_of_the_waiting_process(config: Config, whole: bytes) -> None:
    """SIGKILL to real processes, once the first unit is there."""
    process = start(*COMMAND)
    wait_for(lambda: units(config))
    os.kill(workers_of(process)[0], signal.SIGKILL)  # of its two units one at least is not
    done = process.end()
    assert done.returncode == 2 and "Process 1 of 2 was killed by signal 9" in done.stderr
    assert units(config) and not paths.evaluation(config, RUN).exists()

    units(config)[0].unlink()
    process = start(*COMMAND)
    wait_for(lambda: len(workers_of(process)) == 2)
    workers = workers_of(process)
    process.kill()
    assert process.end().returncode == -signal.SIGKILL
    wait_for(lambda: not any(Path(f"/proc/{pid}/fd").exists() for pid in workers))
    assert cli.main(COMMAND) == 0
    assert forgotten(config) == whole


def test_one_sentence_from_many_processes(config: Config) -> None:
    done = start("evaluate", RUN, *SEEDS, "training.dit.learning_rate=1").end()
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("d2it: error:") and "run `d2it train" in done.stderr


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b"])
def test_a_share_that_there_is_not(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--share", shard]) == 2
    assert "from 1/n to n/n" in capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shares_of_latents(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = paths.latents(config, "dvae")
    monkeypatch.setattr(encode, "SHARD", 8)
    monkeypatch.setattr(encode, "BLOCK", 8)
    shutil.rmtree(folder)
    assert encode.encode(run_of(config, "dvae"))
    before = contents(folder)
    shutil.rmtree(folder)
    for part in (2, 1):
        assert encode.encode(run_of(config, "dvae"), Share(part, 2))
        assert not (folder / "manifest.json").exists()
    monkeypatch.setattr(encode.Encoding, "_shard", None)
    [one] = folder.parent.glob(".dvae.*.parts/train-00000000-*.safetensors")
    save_file({}, one, {"device": "NVIDIA H200"})
    with pytest.warns(UserWarning, match="Latents of dvae: computed on several kinds.*H200"):
        assert encode.encode(run_of(config, "dvae"))
    assert contents(folder) == before


def test_shares_of_reference_features(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = paths.reference(config, "photos")
    before = contents(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(reference, "UNIT", 16)
    for part in (2, 1):
        assert reference.make_reference(config, "photos", Share(part, 2))
        assert not folder.exists()
    monkeypatch.setattr(reference, "Inception", lambda *_: None)
    assert reference.make_reference(config, "photos")
    assert contents(folder) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "images",
        "reference",
        "thresholds.json",
    ]
