"""The project's own tests of this device."""

import os
import re
import subprocess
import sys

from benchmarks.common import ROOT
from benchmarks.first_hour.outcome import Found
from benchmarks.first_hour.setting import Setting

ON_GPU = ("-m", "gpu", "tests/gpu")
SIMULATED = (
    "tests/test_simulated.py",
)  # of the device itself; `make test` has those of the stages on it


def tested(setting: Setting) -> Found:
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
