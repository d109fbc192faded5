"""Starts each check in a process of its own and waits: one that fails or hangs ends alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.first_hour.setting import START, TOGETHER, Found, Setting, trained_runs
from d2it.config import paths
from d2it.errors import UserError
from d2it.files import read_json

STEPS = 4  # of a training that are computed
LATE = 4  # times its expected seconds, and LEAST at least, a check may take before it is ended
LEAST = 600.0


@dataclass(frozen=True)
class Check:
    name: str
    seconds: float = START  # expected, with the start of its process


@dataclass(frozen=True)
class Done:
    name: str
    found: Found
    seconds: float


def checks_of(setting: Setting) -> list[Check]:
    """All but `machine` and `inputs`, without which there are no others."""
    plan = setting.plan
    return [
        Check("tests", 2 * START),
        *(  # blocks are compiled twice, with gradients and without
            Check(f"training {run}", 2 * START + STEPS * plan.step(run))
            for run in trained_runs(setting.config)
        ),
        Check("encoding", START + plan.encoding()),
        Check("sampling", START + plan.sampling()),
        Check("evaluation", START + plan.evaluation()),
        Check("all-reduce"),
        *(
            Check(f"together {run}", 2 * START + STEPS * plan.step(run))
            for run in trained_runs(setting.config)
            if run in TOGETHER
        ),
    ]


class Runner:
    """Works in `folder`: a log for each check, and the world they share, deleted at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder.resolve(), folder.resolve() / "world"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.world.mkdir(parents=True)
        self.done: list[Done] = []

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self.world)

    def run(self, setting: Setting, check: Check, needed: bool = False) -> Found:
        """`needed`: a refusal ends everything."""
        expected = "" if setting.simulated else f": some {check.seconds:.0f} s"
        print(f"{check.name}{expected}", flush=True)
        began = time.monotonic()
        told = self._start(setting, check)
        refusal = told.get("refused")
        if refusal is not None and needed:
            raise UserError(refusal)
        found = Found(**told) if refusal is None else Found("", wrong=refusal)
        self.done.append(Done(check.name, found, time.monotonic() - began))
        planned = f" (planned: {found.planned})" if found.planned else ""
        print(f"  {': '.join(filter(None, [found.verdict, found.measured]))}{planned}", flush=True)
        return found

    def _start(self, setting: Setting, check: Check) -> dict[str, Any]:
        """What its process has left."""
        stem = self.folder / check.name.replace(" ", "-")
        result, log = stem.with_suffix(".json"), stem.with_suffix(".log")
        mode = ["--simulated"] if setting.simulated else []
        words = [str(result), setting.gpu, *mode, *check.name.split()]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "D2IT_WEIGHTS": str(paths.weights("").resolve()),
            "D2IT_RUNS": "runs",  # of the world
        }
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.first_hour.checks", *words],
                cwd=self.world,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ended = wait(process, max(LEAST, LATE * check.seconds))
        if result.is_file():
            told: dict[str, Any] = read_json(result, made_by="make first-hour")
            return told
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return {"refused": f"{ended}: {lines[-1][:200]} (read {log}, and report it)"}


def wait(process: subprocess.Popen[Any], limit: float) -> str:
    """How it ended; it is ended, with all that it has started, after `limit` seconds."""
    try:
        code = process.wait(limit)
        return f"it ended with {code}" if code >= 0 else f"signal {-code} killed it"
    except subprocess.TimeoutExpired:
        return f"it had not ended after {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
