"""Real training runs of seconds, and real processes in which `d2it train` can be struck.

One process is forked from a server that has imported torch, so that a start costs half a second;
it runs the command line's own `main`. Two are the command itself, with its interpreters.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from d2it.config import load
from d2it.config.run import run_of
from tests.faults import injected
from tests.forked import PROCESSES

ROOT = Path(__file__).parents[2]
KINDS = {"dvae": "dvae", "grain": "grain", "content": "d2it_xl_classes", "dit": "dit_xl_classes"}
SETTINGS = [
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=7",
    "data.photos.size=32",
    "task.conditional=photos",
    "first_stage.classes=dvae",
    "first_stage.classes_r100=dvae",
    "model.dvae.channels=8",
    "model.dvae.discriminator_channels=8",
    "dvae_loss.gan_start=16",
    "training.dvae.images=40",
    "training.dvae.batch=4",
    "training.dvae.log_images=12",
    "training.dvae.save_images=8",
    *(
        f"training.{kind}.{setting}"
        for kind in ("grain", "content", "dit")
        for setting in ("images=160", "batch=4", "log_images=12", "save_images=16")
    ),
]
# of a line of metrics.jsonl: what is the machine's, not the run's
MACHINE = ("images_per_second", "tflops", "mfu", "data_wait", "memory_bytes")

Started = Any  # a multiprocessing.Process or a subprocess.Popen


def _child(folder: str, arguments: list[str], limit: int, fault: str | None, at: int) -> None:
    os.setsid()
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if fault:
        getattr(injected, fault)(at)
    from d2it.cli import main

    raise SystemExit(main(arguments))


@dataclass
class Case:
    """One run of one kind in a folder of its own."""

    folder: Path
    kind: str
    settings: list[str] = field(default_factory=lambda: list(SETTINGS))

    def start(
        self, processes: int = 1, limit: int = 0, fault: str | None = None, at: int = 0
    ) -> Started:
        """`d2it train` with at most `limit` bytes a file, or with a fault of injected.py in it."""
        arguments = ["train", KINDS[self.kind], "--processes", str(processes), *self.settings]
        return self.command(arguments, processes, limit, fault, at)

    def command(
        self,
        arguments: list[str],
        processes: int = 1,
        limit: int = 0,
        fault: str | None = None,
        at: int = 0,
    ) -> Started:
        self.seen = self.starts()
        self.said = len(self.log())
        if processes == 1:
            given = (str(self.folder), arguments, limit, fault, at)
            process = PROCESSES.Process(target=_child, args=given)
            process.start()
            return process
        with open(self.folder / "log", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "d2it", *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )

    def run(self, processes: int = 1, **faults: Any) -> int:
        return code(self.start(processes, **faults))

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.is_file() else ""

    def words(self) -> str:
        """What the last command said."""
        return self.log()[self.said :]

    @property
    def runs(self) -> Path | None:
        return next(self.folder.glob(f"runs/{stem_of(KINDS[self.kind])}-*"), None)

    def starts(self) -> int:
        """How often training has begun: after the imports, before the first step."""
        path = self.runs and self.runs / "provenance.json"
        return len(json.loads(path.read_text())["starts"]) if path and path.is_file() else 0

    def saved(self) -> list[int]:
        states = self.runs.glob("state/[0-9]*") if self.runs else ()
        return sorted(int(path.name) for path in states)

    def saving(self) -> bool:
        return bool(self.runs and list(self.runs.glob("state/.*.part")))

    def workers(self) -> list[int]:
        return [int(path.stem) for path in self.runs.glob("submitit/*.pid")] if self.runs else []

    def until(self, happened: Callable[[], Any], started: Started, seconds: float = 90) -> bool:
        """Wait for something to happen; False if the command ended first."""
        deadline = time.monotonic() + seconds
        while not happened():
            if ended(started):
                return False
            assert time.monotonic() < deadline, f"nothing happens: {self.words()}"
            time.sleep(0.002)
        return True

    def begins(self, started: Started) -> bool:
        return self.until(lambda: self.starts() > self.seen, started)

    def fingerprint(self) -> dict[str, Any]:
        """All that must not depend on what happened on the way."""
        assert self.runs is not None, self.words()
        images = json.loads((self.runs / "done.json").read_text())["images"]
        folders = [self.runs / "state" / f"{images:012d}", *self.runs.glob("state/milestone-*")]
        folders.append(self.folder / "results" / "smoke" / "models" / KINDS[self.kind])
        files = [self.runs / "done.json", *(path for each in folders for path in each.iterdir())]
        found: dict[str, Any] = {
            path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files
        }
        lines = map(json.loads, (self.runs / "metrics.jsonl").read_text().splitlines())
        found["metrics.jsonl"] = [
            {key: value for key, value in line.items() if key not in MACHINE} for line in lines
        ]
        return found


@cache
def stem_of(run: str) -> str:
    """What the folder of a run is called, without digest: equal runs share one."""
    return run_of(load(overrides=SETTINGS), run).folder.name.rpartition("-")[0]


def ended(started: Started) -> bool:
    if isinstance(started, subprocess.Popen):
        return started.poll() is not None
    return started.exitcode is not None


def code(started: Started) -> int:
    """Its exit code (negative: killed by that signal)."""
    if isinstance(started, subprocess.Popen):
        return started.wait(120)
    started.join(120)
    assert started.exitcode is not None, "a process hangs"
    return started.exitcode


class World:
    """Images, thresholds and latents, and what undisturbed runs of each kind end with."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        data = folder / "data"
        data.mkdir(parents=True)
        for name in ("sources.csv", "weights"):
            (data / name).symlink_to(ROOT / "data" / name)
        self.expected: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}  # of start-up and of training
        self.undisturbed: dict[str, Case] = {}
        dvae = Case(folder, "dvae")
        for words in (["prepare", "photos"], ["calibrate", "photos"]):
            assert code(dvae.command([*words, *SETTINGS])) == 0, dvae.log()
        self._undisturbed(dvae)
        assert code(dvae.command(["encode", "dvae", *SETTINGS])) == 0, dvae.log()
        for kind in ("grain", "content", "dit"):
            self._undisturbed(self.case(kind))

    def _undisturbed(self, case: Case) -> None:
        began = time.monotonic()
        started = case.start()
        assert case.begins(started), case.log()
        stepping = time.monotonic()
        assert code(started) == 0, case.log()
        self.seconds[case.kind] = (stepping - began, time.monotonic() - stepping)
        self.expected[case.kind] = case.fingerprint()
        self.undisturbed[case.kind] = case

    def case(self, kind: str, own_data: bool = False) -> Case:
        """A new run of this kind, on the common data or on a copy of it."""
        self.count += 1
        folder = self.folder / "cases" / f"{self.count:04d}-{kind}"
        folder.mkdir(parents=True)
        if own_data:
            shutil.copytree(self.folder / "data", folder / "data", symlinks=True)
        else:
            (folder / "data").symlink_to(self.folder / "data")
        return Case(folder, kind)

    def copy(self, case: Case) -> Case:
        """The same run as it stands."""
        new = self.case(case.kind)
        shutil.copytree(case.folder / "runs", new.folder / "runs")
        new.settings = case.settings
        return new

    def differing(self, case: Case) -> list[str]:
        """What of a finished run is not bitwise that of an undisturbed one."""
        found, expected = case.fingerprint(), self.expected[case.kind]
        return [k for k in sorted(found | expected) if found.get(k) != expected.get(k)]
