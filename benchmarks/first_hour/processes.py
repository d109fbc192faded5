"""Processes that meet as those of a training do, each with a GPU, or two of the CPU by gloo."""

import os
import subprocess
import sys
import time

from benchmarks.first_hour.setting import Setting
from d2it.jobs.local import free_port

PATIENCE = 300.0  # seconds


def answers(module: str, processes: int, setting: Setting, *words: str) -> str:
    """Start as many of this module and wait; what went wrong, if anything did."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": "lo",  # a node's name need not resolve
    }
    environment.pop("ACCELERATE_TORCH_DEVICE", None)  # a simulated device has no one to talk to
    where = ["cpu", "simulated"] if setting.simulated else ["cuda", ""]
    command = [sys.executable, "-m", f"benchmarks.first_hour.{module}", setting.gpu, *where, *words]
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(processes)
    ]
    deadline = time.monotonic() + PATIENCE
    try:
        while any(one.poll() is None for one in ranks):
            if any(one.poll() for one in ranks):
                return "a process died"
            if time.monotonic() > deadline:
                return f"the GPUs have not answered each other for {PATIENCE:g} s"
            time.sleep(0.2)
        return "a process died" if any(one.returncode for one in ranks) else ""
    finally:
        for one in ranks:
            one.kill()
            one.wait()
