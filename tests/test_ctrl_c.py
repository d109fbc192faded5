"""Ctrl-C at a terminal reaches every process of Snakemake's job; the command has the last word."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.test_names import FEW, IMAGES, checkout  # noqa: F401
from tests.test_workflow import Checkout


def test_what_the_command_says_at_its_end_is_logged(checkout: Checkout) -> None:  # noqa: F811
    words = ["snakemake", "--cores", "1", IMAGES, "--config", *FEW]
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=checkout.root,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    preparing = _holder(checkout.root / "runs" / ".leases")
    os.kill(preparing, signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGINT)
    os.kill(preparing, signal.SIGCONT)
    said = process.communicate(timeout=120)[0]
    last = "d2it: interrupted; run the same command again to go on."
    assert process.returncode and last in said
    [log] = (checkout.root / "logs").rglob("*.log")
    assert last in log.read_text()
    assert checkout.run(*words).returncode == 0


def _holder(leases: Path) -> int:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for heartbeat in leases.glob("*/heartbeat.json"):
            pid: int = json.loads(heartbeat.read_text())["pid"]
            return pid
        time.sleep(0.005)
    raise AssertionError("nothing is being prepared")
