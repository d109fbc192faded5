"""Slurm's own programs, run so that no default of a site or user decides what we ask.

run("squeue", "--all")      its output; a program that is missing or silent is an error like any
insist(ask, patient=True)   ask until Slurm answers, saying so; without patience, once
refusal(words)              why sbatch submitted nothing, in one line
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from d2it.errors import UserError

PATIENCE = 60  # seconds for an answer
PAUSE, LONGEST = 5.0, 300.0  # seconds between two attempts: the first, and at most

# Options by another way: SBATCH_EXPORT=NONE starts jobs without an environment, SQUEUE_STATES hides
# them, and srun takes SLURM_* of a job that we run in for those of the next.
OPTIONS = re.compile("(SBATCH|SQUEUE|SACCT|SCONTROL|SRUN|SLURM)_")
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # where Slurm is, and who we are
SILENCE = re.compile(  # of slurmctld
    "timed out|did not answer|[Uu]nable to contact|not responding|standby mode"
    "|[Cc]onnection (failure|refused)|[Zz]ero [Bb]ytes|temporarily un(able|available)|connect fail"
)
Answer = TypeVar("Answer")


class NotNow(UserError):
    """Slurm is silent, or takes no more jobs for now: later it may say something else."""

    def __init__(self, said: str, submitted: str = "nothing was submitted"):
        super().__init__(f"{said}: {submitted}; run the same command again once it does.")
        self.said = said


def require(otherwise: str) -> None:
    """Slurm's commands are here; else, what can be done `otherwise`."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "There is no Slurm here (sbatch was not found): log in to a submit node, or "
            f"{otherwise}."
        )


def run(*command: str, patience: float | None = PATIENCE) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=patience,
            env={name: os.environ[name] for name in os.environ if _is_kept(name)},
        )
    except FileNotFoundError:
        message = f"{command[0]} was not found"
    except subprocess.TimeoutExpired:
        message = f"{command[0]} did not answer within {patience:.0f} s"
    return subprocess.CompletedProcess(command, 1, "", message)


def _is_kept(name: str) -> bool:
    return name in KEPT or not OPTIONS.match(name)


def insist(ask: Callable[[], Answer], patient: bool) -> Answer:
    pause = PAUSE
    while True:
        try:
            return ask()
        except NotNow as silence:
            if not patient:
                raise
            print(f"d2it: {silence.said}: trying again in {pause:.0f} s", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def refusal(words: str) -> str:
    """All that sbatch says of it: a site's own rule stands before Slurm's "Unspecified error"."""
    found = re.findall(r"^sbatch: (?:error: )?(?:lua: )?(.*\S)", words, re.MULTILINE)
    found = found or [line.strip() for line in words.splitlines() if line.strip()]
    told = [line.removeprefix("Batch job submission failed: ") for line in found]
    told = [line for line in told if line != "Unspecified error"] or told
    return "; ".join(dict.fromkeys(told)) or "no reason given"
