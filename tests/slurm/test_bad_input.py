"""What Slurm or the cluster refuses: one sentence, and nothing is submitted or left behind."""

import pytest

from d2it.config import load
from d2it.config.run import run_of
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import OVERRIDES, Training


def refused(training: Training, *parts: str, **changes: str) -> None:
    said = training.finish(training.start(**changes), 2)
    assert said.startswith("d2it: error: ") and said.count("\n") == 1, said
    for part in parts:
        assert part in said
    assert not training.live() and not list(training.folder.rglob("*.pkl"))
    assert not (training.folder / "results").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("resources.partition=moon", "Invalid partition name specified)"),
        ("resources.account=nobodys", "Invalid account or account/partition combination"),
        ("resources.constraint=h900", "Invalid feature specification)"),
        ("resources.gpus=9", "Requested node configuration is not available)"),
        ("'resources.extra={mem: 900T}'", "Requested node configuration is not available)"),
        ("'resources.extra={mooon: 1}'", "unrecognized option '--mooon=1')"),
    ],
)
def test_refused_by_slurm(training, change: str, sentence: str) -> None:
    asked = change.strip("'").removeprefix("resources.").replace("=", " ")
    parts = ("Slurm refused the job of dvae", sentence, "correct the launcher", asked)
    refused(training("refused", change), *parts)


def test_nothing_can_be_written(training) -> None:
    refused(training("unwritable"), "cannot be written", D2IT_RUNS="/sys/kernel")


def test_another_user_trains_in_this_folder(cluster: Cluster, training) -> None:
    mine = training("shared")
    name = run_of(load(overrides=OVERRIDES), "dvae").folder.name
    folder = (mine.folder / "runs" / name).resolve()
    theirs = ("--uid=nobody", "--hold", f"--job-name={name}", f"--comment={folder}")
    told = cluster.run("sbatch", *theirs, "--wrap=true")
    said = mine.finish(mine.start(), 2)
    job = told.split()[-1]
    assert f"is being trained by nobody in Slurm job {job}" in said and said.count("\n") == 1
    assert [job.user for job in mine.live()] == ["nobody"]
    cluster.run("scancel", job)


def test_a_gpu_is_demanded_where_there_is_none(training) -> None:
    demanding = training("cuda", "device=cuda stages.dvae.nodes=1")
    said = demanding.finish(demanding.start(), 2)
    assert "demands a CUDA GPU, but torch sees none" in said.splitlines()[-1]
    assert "Traceback" not in said and not demanding.trained(0)
