"""An evaluation as an array of jobs on a real cluster: the bytes of one process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2it import cli
from d2it.config import Config, load, paths
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import until
from tests.tiny_world import OVERRIDES, build_world, enter

RUN = "dit_b"
SEEDS = [*OVERRIDES, "evaluation.seeds=[0,1,2]"]  # a unit each
LAUNCHER = """cluster: slurm
device: cpu
poll: 3
resources: {processes: 1, gpus: 1, cpus: 1, minutes: 60, shares: 3, at_once: 2}
"""


@pytest.fixture(scope="module")
def config(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        Path("array.yaml").write_text(LAUNCHER)
        patch.setenv("D2IT_LAUNCHER", "array.yaml")
        build_world([RUN])
        yield load(overrides=SEEDS)


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, *options, "-m", "d2it", "evaluate", RUN, *SEEDS]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def computing(share: str = "") -> list[int]:
    """Processes that compute a share here, or this share."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text().split("\0")
            here = os.readlink(entry / "cwd") == os.getcwd()
        except OSError:
            continue
        if here and "--shard" in words and share in ("", words[words.index("--shard") + 1]):
            found.append(int(entry.name))
    return found


def test_the_waiting_process_is_killed(cluster: Cluster, config: Config) -> None:
    """Two at a time; found again, not submitted again; no torch in who waits."""
    assert cli.main(["evaluate", RUN, *SEEDS, "--processes", "1"]) == 0
    alone = paths.evaluation(config, RUN).read_bytes()
    paths.evaluation(config, RUN).unlink()
    first = paths.run_folder(config, RUN)
    first.rename("first")

    process = start()
    until(lambda: list(first.rglob("seed*.safetensors")), "no unit was computed")
    running = cluster.run("squeue", "--noheader", "--states=R", "--format=%i").split()
    assert len(running) <= 2
    process.kill()
    process.wait()
    process = start("-X", "importtime")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert not re.search(r"\| +torch$", said, re.M)
    assert paths.evaluation(config, RUN).read_bytes() == alone
    named = cluster.run("sacct", "--noheader", "--allocations", "--format=JobName%50").split()
    assert len([name for name in named if name.startswith("d2it-evaluate-")]) == 3 + 1
    assert [path.name for path in (paths.runs_folder() / ".arrays").iterdir()] == ["lock"]


def test_a_share_is_killed(
    cluster: Cluster, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL to its process: the sentence of what it was, and the same command goes on."""
    before = paths.evaluation(config, RUN).read_bytes()
    paths.evaluation(config, RUN).unlink()
    folder = paths.run_folder(config, RUN)
    folder.rename("second")
    process = start()

    until(lambda: computing("2/3"), "the second share was not started")
    os.kill(computing("2/3")[0], signal.SIGKILL)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "Part 2/3 was killed by signal 9" in said
    assert not paths.evaluation(config, RUN).exists()
    process = start()
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert paths.evaluation(config, RUN).read_bytes() == before


def test_the_time_limit_comes(cluster: Cluster, config: Config) -> None:
    """USR2 to a job of the array: it is requeued. scancel ends the array, not what it computed."""
    before = paths.evaluation(config, RUN).read_bytes()
    paths.evaluation(config, RUN).unlink()
    paths.run_folder(config, RUN).rename("third")
    process = start()
    until(computing, "no share was begun")
    cluster.run("scancel", "--user=root")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert re.search(r"before 1/3, .* job \d+_0 ended on node1 as CANCELLED by 0, exit", said), said
    process = start()
    until(computing, "no share was begun")
    running = cluster.run("squeue", "--noheader", "--states=R", "--format=%i").split()
    cluster.run("scancel", "--signal=USR2", running[0])
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert paths.evaluation(config, RUN).read_bytes() == before
    states = cluster.run("sacct", "--noheader", "--duplicates", "--allocations", "--format=State")
    assert "REQUEUED" in states


def test_a_users_mistake_is_told(config: Config) -> None:
    command = [sys.executable, "-m", "d2it", "evaluate", "d2it_b", *SEEDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("d2it: error:") and "make it with `d2it train d2it_b`" in last
