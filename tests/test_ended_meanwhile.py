"""A job that ends after a command has looked at its work, and before it looks at the queue."""

import os
import shutil
from pathlib import Path

import pytest

from d2it.config.run import run_of
from d2it.jobs import slurm
from d2it.jobs.launcher import Resources
from d2it.jobs.slurm_jobs import Jobs, Work
from d2it.jobs.submit import logs_of
from tests.commands import command
from tests.composed import composed
from tests.test_launch import CONSTANT
from tests.tiny_world import enter

WORDS = ["train", "dvae", *CONSTANT, "training.dvae.images=8", "dvae_loss.gan_start=4"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


def slurm_whose_job_ends(folder: Path, end: str) -> str:
    """A PATH with a Slurm whose queue is empty as soon as it is asked, for then the job does `end`;
    whoever submits leaves a file `submitted`.
    """
    programs = folder / "programs"
    programs.mkdir()
    says = {"squeue": end, "sbatch": f"touch {folder}/submitted; echo 8", "srun": "", "sacct": ""}
    for name, script in says.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\nexit 0\n")
        (programs / name).chmod(0o755)
    return f"{programs}{os.pathsep}{os.environ['PATH']}"


def test_a_training_is_not_submitted_again(world: Path) -> None:
    for words in (["prepare", "photos", *CONSTANT], [*WORDS, "--launcher", "local"]):
        done = command(*words)
        assert done.returncode == 0, done.stderr
    run = run_of(composed(*WORDS[2:]), "dvae")
    end, published = run.folder / "done.json", run.model / "model.safetensors"
    weights = published.read_bytes()
    end.rename(world / "later")
    shutil.rmtree(run.model)
    path = slurm_whose_job_ends(world, f"[ ! -e {world}/later ] || mv {world}/later {end}")
    done = command(*WORDS, "--launcher", "slurm device=cpu resources.gpus=0", PATH=path)
    assert done.returncode == 0, done.stderr
    assert "published in" in done.stdout and published.read_bytes() == weights
    assert not (world / "submitted").exists() and not slurm.jobs_of(run.folder)


def test_nor_is_an_array(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world / "runs/.arrays/d2it-reference-1"
    parts = {"1/2": Work(), "2/2": Work()}
    jobs = Jobs(folder, "reference", parts, Resources(), 60, folder.parent / "lock")
    slurm.record(folder, "7", len(parts), "reference")
    words = [logs_of(folder) / f"{job}_0_result.json" for job in slurm.ids("7", len(parts))]
    words[0].parent.mkdir()
    ends = (f"echo '{{\"error\": null}}' > {word}" for word in words)
    monkeypatch.setenv("PATH", slurm_whose_job_ends(world, "; ".join(ends)))
    assert not jobs.ended_well()
    assert jobs.run(clear=lambda: pytest.fail("it is to be submitted"), done=jobs.ended_well)
    assert not (world / "submitted").exists() and slurm.jobs_of(folder) == ["7"]
