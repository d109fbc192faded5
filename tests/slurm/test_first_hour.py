"""The first hour as a Slurm job: submitted by the launcher, its words shown here."""

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.common import RESULTS, ROOT
from tests.slurm.cluster import LAUNCHER, Cluster


def first_hour(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.first_hour", "--slurm", *words],
        cwd=ROOT,
        env=os.environ | {"D2IT_RUNS": str(folder), "D2IT_LAUNCHER": str(LAUNCHER)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_job_of_a_node_without_a_driver_ends_in_a_sentence(cluster: Cluster, tmp_path):
    done = first_hour(tmp_path)
    # not its states: a job that ends so soon may be over before anybody looks
    assert done.returncode == 2 and re.match(r"first hour: Slurm job \d+\n", done.stderr)
    said = [line for line in done.stdout.splitlines() if line.startswith("first-hour: error: ")]
    assert len(said) == 1 and "cannot use the GPU" in said[0] and "another node" in said[0]
    assert "Traceback" not in done.stdout and not list(RESULTS.glob("first-hour-*"))


def test_what_slurm_refuses_is_submitted_nowhere(cluster: Cluster, tmp_path):
    done = first_hour(tmp_path, "--launcher", f"{LAUNCHER} resources.partition=moon")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Invalid partition name" in done.stderr and "correct the launcher" in done.stderr
    assert not list(tmp_path.rglob("*.pkl"))
