"""The command that is typed on a cluster, in a new clone, killed on its way and typed again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2it.jobs import slurm
from tests.slurm.cluster import LAUNCHER, Cluster
from tests.slurm.conftest import ROOT, until

LIMIT = 900  # seconds
TYPED = ("--profile", "slurm", "all_tables", "--config", "scale=smoke")
HERE = ("--cores", "2", "all_tables", "--config", "scale=smoke")  # nothing to do in .ci/run


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="module")
def clone(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the smoke scale, made by jobs."""
    folder = tmp_path_factory.mktemp("clone") / "d2it"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    shutil.copytree(ROOT / "data" / "weights", folder / "data" / "weights")
    log = folder.parent / "log"

    def waiting() -> int:
        """How often a command has said which job of a first stage it waits for."""
        return len(re.findall(r"dvae\w*: Slurm job \d+\n", log.read_text()))

    def disturbed(signum: int, before: int) -> int:
        """By a signal to all, as from a terminal, once a job was submitted or found again."""
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [program("snakemake"), *TYPED],
                cwd=folder,
                env=environment(),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        until(lambda: waiting() > before or process.poll() is not None, "no job was submitted")
        os.killpg(process.pid, signum)
        return process.wait(60)

    assert disturbed(signal.SIGINT, 0) == 1, log.read_text()
    assert "goes on with dvae" in log.read_text()  # which tee, interrupted too, still shows
    found = waiting()
    assert any(slurm.live(run) for run in (folder / "runs").glob("dvae*")), log.read_text()
    assert disturbed(signal.SIGKILL, found) == -signal.SIGKILL, log.read_text()
    done = subprocess.run(
        [program("snakemake"), *TYPED],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, log.read_text() + done.stderr
    assert "Scale smoke; the published scale: `snakemake --profile slurm all" in done.stderr
    return folder


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"D2IT_LAUNCHER": str(LAUNCHER), "PATH": path}


def test_every_run_had_one_job_and_the_dvae_two_nodes(clone: Path) -> None:
    folders = [path for path in (clone / "runs").iterdir() if (path / "done.json").exists()]
    assert len(folders) > 5
    for folder in folders:
        assert len(slurm.jobs_of(folder)) == 1, folder
    [dvae] = (clone / "runs").glob("dvae-*")
    told = slurm.accounting(slurm.jobs_of(dvae), every=0)
    [job] = told.values()
    assert (job.nodes, job.gpus) == ("node[1-2]", 2)
    [start] = json.loads((dvae / "provenance.json").read_text())["starts"]
    assert start["processes"] == 2


def test_the_tables_are_those_of_a_local_run(clone: Path) -> None:
    subprocess.run(
        [program("snakemake"), *HERE],
        cwd=ROOT,
        env=environment() | {"D2IT_LAUNCHER": "local"},
        check=True,
        timeout=LIMIT,
    )
    mine, theirs = (at / "results/smoke/tables" for at in (clone, ROOT))
    files = sorted(path.name for path in theirs.iterdir())
    assert len(files) == 18
    for name in files:
        assert (mine / name).read_bytes() == (theirs / name).read_bytes(), name


def test_dvc_submits_too(clone: Path) -> None:
    """One stage of an experiment, in a job; the stages before it are as Snakemake left them."""
    [run] = (clone / "runs").glob("grain-*")
    model = clone / "results/smoke/models/grain"
    before = (model / "model.safetensors").read_bytes()
    shutil.rmtree(run)
    shutil.rmtree(model)
    me = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    for command in (
        ["d2it", "config", "scale=smoke", "--write", "params.yaml"],
        ["dvc", "commit", "--quiet", "--force", "--with-deps", "encode@dvae"],
        ["dvc", "exp", "run", "--set-param", "scale=smoke", "train-grain@grain"],
    ):
        subprocess.run(
            [program(command[0]), *command[1:]],
            cwd=clone,
            env=environment() | {f"GIT_{name}": "test@localhost" for name in me},
            check=True,
            timeout=LIMIT,
        )
    assert len(slurm.jobs_of(run)) == 1
    assert (model / "model.safetensors").read_bytes() == before
