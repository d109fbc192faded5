"""Launchers: their settings, and a real DVAE trained by `d2it train` while its parent is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2it.calibration import calibrate
from d2it.config import load
from d2it.data.prepare import prepare
from d2it.errors import UserError
from d2it.launch import Launcher, load_launcher, visible_gpus

OVERRIDES = [
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=7",
    "training.dvae.images=64",
    "training.dvae.batch=4",
    "training.dvae.save_images=4",
    "dvae_loss.gan_start=16",
]


def test_launchers_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_launcher().cluster == "local"
    assert load_launcher("slurm").of("content").gpus == 8
    assert load_launcher("slurm").of("grain").gpus == 1
    monkeypatch.setenv("D2IT_LAUNCHER", "slurm")
    assert load_launcher().cluster == "slurm"
    with pytest.raises(UserError, match="did you mean 'slurm'"):
        load_launcher("slrum")
    mine = tmp_path / "mine.yaml"
    mine.write_text("{cluster: local, resources: {procesess: 2}}")
    with pytest.raises(UserError, match="did you mean 'processes'"):
        load_launcher(str(mine)).of("dvae")
    mine.write_text("{cluster: moon}")
    with pytest.raises(UserError, match="mine.yaml.*'local' or 'slurm'"):
        load_launcher(str(mine))
    mine.write_text("{stages: [")
    with pytest.raises(UserError, match="is not YAML"):
        load_launcher(str(mine))
    assert Launcher("local", stages={"dvae": {"processes": 3}}).of("dvae").processes == 3


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, count in (("", 0), ("0", 1), ("0,3", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == count


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "d2it", "train", "dvae", *arguments, *OVERRIDES]


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def trained_by(folder: Path) -> list[int]:
    """Processes of each start."""
    [path] = folder.glob("dvae-*/provenance.json")
    return [start["processes"] for start in json.loads(path.read_text())["starts"]]


def test_the_launching_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of `d2it train` takes its processes with it; the same command goes on, bit by bit."""
    monkeypatch.chdir(tmp_path)
    config = load(overrides=OVERRIDES)
    (tmp_path / "data").mkdir()
    root = Path(__file__).parents[1] / "data"
    for name in ("sources.csv", "weights"):
        (tmp_path / "data" / name).symlink_to(root / name)
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    published = tmp_path / "results" / "smoke" / "models" / "dvae"

    environment = os.environ | {"D2IT_RUNS": "alone"}
    subprocess.run(command("--processes", "1"), env=environment, check=True, timeout=120)
    expected = weights(published)
    shutil.rmtree(published)  # else there is nothing left to train

    with open("log", "w") as log:
        first = subprocess.Popen(command("--processes", "2"), stdout=log, stderr=log)
        deadline = time.monotonic() + 100
        while not list(Path("runs").glob("dvae-*/state/0*")):
            assert first.poll() is None and time.monotonic() < deadline, Path("log").read_text()
            time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = subprocess.run(command("--processes", "2"), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "resumed at" in again.stderr
    assert trained_by(Path("runs")) == [2, 2]
    assert weights(published) == expected
    once_more = subprocess.run(command(), capture_output=True, text=True, timeout=60)
    assert "published again" in once_more.stdout
