"""One check, in a process of its own.

    python -m benchmarks.first_hour.checks RESULT.json GPU [--simulated] CHECK [RUN]

Works in the current directory, where the check `inputs` has put what the others need. The result
is what it found, or the sentence of a refusal.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.first_hour import images, machine, steps, together, world
from benchmarks.first_hour.setting import Found, Setting
from d2it.cli import system_sentence
from d2it.errors import UserError
from d2it.files import write_json

ON_GPU = ("-m", "gpu", "tests/gpu")
# of the device itself; `make test` has those of the stages on it
SIMULATED = ("tests/test_simulated.py",)


def built(setting: Setting) -> Found:
    world.build(setting.config)
    return Found(f"{2 * setting.images} images of noise, their latents, untrained networks")


def tested(setting: Setting) -> Found:
    """The project's own tests of this device."""
    chosen = SIMULATED if setting.simulated else ON_GPU
    command = [sys.executable, "-m", "pytest", "-q", *chosen]
    environment = dict(os.environ)
    environment.pop("ACCELERATE_TORCH_DEVICE", None)  # tests choose their own
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1].strip("= ")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    wrong = ""
    if done.returncode:
        wrong = f"{', '.join(failed) or last}: run `make test-gpu` and report what it says"
    return Found(last, wrong=wrong)


CHECKS: dict[str, Callable[..., Found]] = {
    "machine": machine.looked_at,
    "inputs": built,
    "tests": tested,
    "training": steps.train,
    "encoding": images.encoded,
    "sampling": images.sampled,
    "evaluation": images.evaluated,
    "all-reduce": together.summed,
    "together": together.trained,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("gpu")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("run", nargs="*")
    given = parser.parse_args()
    setting = Setting(given.gpu, given.simulated)
    with ExitStack() as stack:
        if setting.simulated:
            from tests import simulated

            stack.enter_context(simulated.chosen())
        try:
            found = asdict(CHECKS[given.check](setting, *given.run))
        except UserError as error:
            found = {"refused": str(error)}
        except Exception as error:
            found = {"refused": system_sentence(error)}
            if found["refused"] is None:
                raise
    write_json(given.result, found)


if __name__ == "__main__":
    main()
