"""A cluster of our own for the tests, and trainings on it that are disturbed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from d2it.jobs import slurm
from tests.slurm.cluster import LAUNCHER, Cluster

ROOT = Path(__file__).parents[2]
PATIENCE = 400.0  # seconds; the machine may be busy
OVERRIDES = [
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=7",
    "training.dvae.images=96",
    "training.dvae.batch=4",
    "training.dvae.save_images=4",
    "dvae_loss.gan_start=16",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", metavar="FILE", help="where the table of faults is written")


def brought_up(site: Cluster) -> Iterator[Cluster]:
    """A cluster in whose environment commands run, until a fixture ends."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            site.up()
            for name, value in site.environment.items():
                patch.setenv(name, value)
            yield site
        finally:
            site.down()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), spare=True)
    yield from brought_up(cluster)
    cluster.down()  # again does no harm
    assert not cluster.processes()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data to train a DVAE on."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "data").mkdir()
    for name in ("sources.csv", "weights"):
        (folder / "data" / name).symlink_to(ROOT / "data" / name)
    for verb in ("prepare", "calibrate"):
        Training(folder).d2it(verb, "photos", *OVERRIDES)
    return folder


@pytest.fixture(scope="session")
def world(data: Path) -> Path:
    """The same, and in results/ the weights of an undisturbed training here."""
    Training(data).d2it(*("train", "dvae", "--launcher", "local", "--processes", "1"), *OVERRIDES)
    return data


def until(reached: Callable[[], object], what: str, said: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, f"{what}: {said()}"
        time.sleep(0.2)


def wrapped(folder: Path, program: str, *lines: str) -> str:
    """A PATH on which these lines of shell, in a new folder, take the place of the program."""
    folder.mkdir()
    (folder / program).write_text("\n".join(["#!/bin/sh", *lines]))
    (folder / program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def held_sbatch(folder: Path, before: bool) -> str:
    """A PATH with an sbatch that reads its file, leaves `called`, and waits for `go`, before or
    after what the real one does."""
    real = f"{shutil.which('sbatch')} --parsable {folder}/read"
    hold = f"timeout {PATIENCE:.0f} sh -c 'until [ -e {folder}/go ]; do sleep 0.1; done'"
    read = ["for script; do :; done", f'cp "$script" {folder}/read', f"touch {folder}/called"]
    return wrapped(folder, "sbatch", *read, *((hold, real) if before else (real, hold)))


def released(folder: Path, process: "subprocess.Popen[Any]", lock: Path) -> None:
    """Let a held sbatch go once `process` has come to the lock that it holds."""

    def opened() -> bool:
        return str(lock) in {
            os.path.realpath(fd) for fd in Path(f"/proc/{process.pid}/fd").glob("*")
        }

    until(opened, "the lock was not asked for")
    time.sleep(1)  # more than it takes to submit another
    (folder / "go").touch()


class Training:
    """`d2it train dvae` in a folder of its own, through Slurm."""

    def __init__(self, folder: Path, launcher: str = "") -> None:
        self.folder = folder
        self.environment = os.environ | {"D2IT_LAUNCHER": f"{LAUNCHER} {launcher}"}
        self.environment.pop("D2IT_RUNS", None)
        self.log = folder / "log"

    def d2it(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "d2it", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self, *words: str, **changes: str) -> "subprocess.Popen[bytes]":
        """The command, left alone; what it says goes to the log."""
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "d2it", "train", "dvae", *OVERRIDES, *words],
                cwd=self.folder,
                env=self.environment | changes,
                stdout=log,
                stderr=log,
            )

    def finish(self, process: "subprocess.Popen[bytes]", code: int = 0) -> str:
        """What it has said in all until it ended."""
        assert process.wait(PATIENCE) == code, self.said()
        return self.said()

    def said(self) -> str:
        return self.log.read_text()

    @property
    def run(self) -> Path:
        [folder] = (self.folder / "runs").glob("dvae-*")
        return folder

    def trained(self, images: int = 16) -> bool:
        """Whether a state of so many images was saved."""
        states = (self.folder / "runs").glob("dvae-*/state/0*")
        return any(int(state.name) >= images for state in states)

    def begun(self, process: "subprocess.Popen[bytes]") -> None:
        until(lambda: self.trained() or process.poll() is not None, "no state was saved", self.said)
        assert process.poll() is None, self.said()

    def job(self) -> str:
        return slurm.jobs_of(self.run)[-1]

    def live(self) -> list[slurm.Queued]:
        runs = (self.folder / "runs").glob("dvae-*")
        return [job for run in runs for job in slurm.live(run)]

    def equal(self, world: Path) -> bool:
        """Whether its weights are those of the undisturbed training, bit by bit."""
        mine, theirs = (at / "results/smoke/models/dvae" for at in (self.folder, world))
        same = {
            path.name: path.read_bytes() == (mine / path.name).read_bytes()
            for path in theirs.iterdir()
        }
        return all(same.values())


Make = Callable[..., Training]


@pytest.fixture(scope="session")
def training(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    return trainings(data, tmp_path_factory)


def trainings(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(name: str, launcher: str = "") -> Training:
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(data / "data", folder / "data", symlinks=True)
        return Training(folder, launcher)

    return make
