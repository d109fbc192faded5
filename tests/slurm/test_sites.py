"""The same commands where others have set Slurm up: policies, limits, wrappers, options."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import (
    OVERRIDES,
    ROOT,
    Make,
    Training,
    brought_up,
    trainings,
    until,
    wrapped,
)
from tests.slurm.sites import EXPORTED, TRIED, Bare, Foreign, page

TYPED = "'resources.extra={gpus_per_node: a100:1}' stages.dvae.nodes=1"
LONG = ("training.dvae.images=240",)  # still at work when it is looked for or cancelled
SHORT = ("training.dvae.images=8", "dvae_loss.gan_start=4")
TALKS = "echo 'Your job 3 of 50 allowed'; echo 'Welcome to the centre' >&2"
TIMED_OUT = (
    "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv "
    "operation' >&2; exit 1"
)


def test_the_page_has_what_is_tried_here() -> None:
    here = {name for name in globals() if name.startswith("test_")}
    assert here == {*TRIED, "test_the_page_has_what_is_tried_here"}
    assert page() in (ROOT / "docs" / "slurm_faults.md").read_text()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from brought_up(Foreign(tmp_path_factory.mktemp("foreign")))


@pytest.fixture(scope="module")
def training(foreign: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    return trainings(data, tmp_path_factory)


def submitted(site: Cluster) -> list[str]:
    """Numbers of all that were ever submitted there, by Slurm's own log."""
    log = (site.folder / "log" / "slurmctld.log").read_text()
    return re.findall(r"_slurm_rpc_submit_batch_job: JobId=(\d+)", log)


def wrapper(folder: Path, *lines: str) -> str:
    """A PATH with a site's own sbatch; {sbatch} is the real one."""
    return wrapped(
        folder, "sbatch", *(line.format(sbatch=shutil.which("sbatch")) for line in lines)
    )


def sometimes(folder: Path, path: str) -> str:
    """And a squeue that fails every third time, the first too."""
    count = f"echo . >> {folder}/asked; [ $(( $(wc -l < {folder}/asked) % 3 )) != 1 ] || exit 1"
    real = f'exec {shutil.which("squeue")} "$@"'
    return f"{wrapped(folder, 'squeue', count, real).partition(':')[0]}:{path}"


def said_until(training: Training, process, words: str) -> str:
    until(lambda: words in training.said() or process.poll() is not None, words, training.said)
    assert process.poll() is None, training.said()
    return training.said()


def test_one_job_whatever_is_exported_and_said(foreign: Cluster, training: Make) -> None:
    """Its comment is rewritten, sbatch's answer lost after a chat, squeue fails, the command is
    killed and typed again: one job, which has its environment.
    """
    here, before = training("exported", TYPED), len(submitted(foreign))
    lost = wrapper(here.folder / "sbatch", TALKS, '{sbatch} "$@" > /dev/null', TIMED_OUT)
    path = sometimes(here.folder / "squeue", lost)
    process = here.start("--wait", *LONG, **EXPORTED, PATH=path)
    said = said_until(here, process, "dvae: Slurm job ")
    assert "d2it: Slurm does not answer (no reason given): trying again in 5 s" in said
    process.kill()
    process.wait()
    said = here.finish(here.start("--wait", *LONG, **EXPORTED, PATH=path))
    assert len(submitted(foreign)) == before + 1
    assert "published in" in said and f"Slurm job {here.job()}" in said
    assert here.job() == submitted(foreign)[-1]


def test_an_answer_with_other_numbers(foreign: Cluster, training: Make) -> None:
    """Held by a person, which is said with its cure; then it gets no memory, which is said too."""
    here = training("talks", f"{TYPED} 'resources.extra={{gpus_per_node: a100:1, mem: 60M}}'")
    path = wrapper(here.folder / "sbatch", TALKS, 'exec {sbatch} --hold "$@"')
    process = here.start(*SHORT, PATH=path)
    until(here.live, "no job", here.said)
    job = here.live()[0].job
    said_until(here, process, f"`scontrol release {job}` lets what is held start")
    assert f"dvae: Slurm job {job}: PENDING JobHeldUser" in here.said()
    foreign.run("scontrol", "release", job)
    said = here.finish(process, 2)
    assert "it needs more memory than Slurm gave it" in said and "resources.extra.mem=" in said


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        ("", "(GPUs must be typed, e.g. --gpus-per-node=a100:1)"),
        (f"{TYPED} resources.partition=strict", "(A comment has at most 24 characters)"),
    ],
)
def test_a_sites_own_rule_is_told(training: Make, launcher: str, sentence: str) -> None:
    here = training("ruled", launcher)
    said = here.finish(here.start(*SHORT), 2)
    assert said.startswith("d2it: error: Slurm refused") and said.count("\n") == 1, said
    assert sentence in said and "correct the launcher, which asks for" in said
    assert not list(here.folder.rglob("*.pkl"))


def test_no_comment_where_none_is_allowed(foreign: Cluster, training: Make) -> None:
    """Found again by its script; and Ctrl-C says what goes on."""
    here = training("silent", f"{TYPED} resources.partition=strict resources.extra.comment=null")
    process = here.start(*SHORT)
    said_until(here, process, "dvae: Slurm job ")
    process.send_signal(signal.SIGINT)
    job = here.job()
    assert f"Slurm job {job} goes on with dvae" in here.finish(process, 130)
    assert [found.job for found in here.live()] == [job]
    foreign.run("scancel", job)
    until(lambda: not here.live(), "scancel is slow")


def test_limits(foreign: Cluster, training: Make) -> None:
    """Of jobs: waited for with --wait, said without; of an array: its setting is named."""
    here, long = training("limited", TYPED), ("--gpus-per-node=a100:1", "--output=/dev/null")
    for shares, why in ((8, "Invalid job array specification"), (2, "AssocMaxSubmitJobLimit")):
        if shares == 2:
            foreign.manage("modify user root set MaxSubmitJobs=1")
        launcher = here.environment["D2IT_LAUNCHER"] + f" resources.shares={shares}"
        said = reference(here, launcher)
        assert said.count("\n") == 1 and why in said and f"shares {shares}." in said, said
    other = foreign.run("sbatch", "--parsable", "--hold", *long, "--wrap=true").strip()
    said = here.finish(here.start(*SHORT), 2)
    assert "Slurm takes no more jobs for now (AssocMaxSubmitJobLimit" in said
    process = here.start("--wait", *SHORT)
    said_until(here, process, "trying again in 5 s")
    foreign.run("scancel", other)
    assert "published in" in here.finish(process)
    foreign.manage("modify user root set MaxSubmitJobs=-1")


def reference(here: Training, launcher: str) -> str:
    """What the command says that is refused an array."""
    done = subprocess.run(
        [sys.executable, "-m", "d2it", "reference", "photos", *OVERRIDES],
        cwd=here.folder,
        env=here.environment | {"D2IT_LAUNCHER": launcher},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_nobody_keeps_accounts(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A job that was cancelled is not waited for; the next one trains, and its states are told."""
    for bare in brought_up(Bare(tmp_path_factory.mktemp("bare"))):
        here = trainings(data, tmp_path_factory)("bare", "stages.dvae.nodes=1")
        process = here.start(*LONG)
        said_until(here, process, "RUNNING node1")
        bare.run("scancel", here.job())
        assert "left the queue, and sacct tells nothing of it" in here.finish(process, 2)
        assert "published in" in here.finish(here.start(*LONG))
