"""Trainings on a real cluster, disturbed in every way: the table in docs/slurm_faults.md, which
`make test-slurm WRITE=docs/slurm_faults.md` writes.

Of each run exactly one job lives at a time, nobody's work is lost, and the weights are bitwise
those of a training that nobody disturbed.
"""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from d2it.errors import UserError
from tests.slurm import sites
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ROOT, Training, held_sbatch, released, until

TWO_NODES = "stages.dvae.nodes=2"
SPARE = f"{TWO_NODES} resources.partition=spare"  # what hits all jobs of a node
ONE_NODE = "stages.dvae.nodes=1"
PAGE = ROOT / "docs" / "slurm_faults.md"


@dataclass
class Watched:
    """A training, and the most jobs of it that were alive at a time."""

    training: Training
    most: int = 0
    ids: set[str] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.over.wait(0.5):
            try:
                live = self.training.live()
            except UserError:  # slurmctld is the one that was killed
                continue
            self.most = max(self.most, len(live))
            self.ids |= {job.job for job in live}


def time_limit(cluster: Cluster, training: Training) -> str:
    process = training.start()
    training.begun(process)
    mine = f"SLURM_JOB_ID={training.job()}", "SLURM_STEP_ID="
    # It might end before Slurm looks at the time. Slurm wakes whom it tells.
    cluster.kill(*mine, signum=signal.SIGSTOP)
    minutes = 2 + (elapsed(cluster, training) - 30) // 60
    cluster.run("scontrol", "update", f"JobId={training.job()}", f"TimeLimit={minutes}")
    until(lambda: restarts(cluster, training), "it was not requeued")
    cluster.run("scontrol", "update", f"JobId={training.job()}", "TimeLimit=60")
    assert "resumed at" in training.finish(process)
    return "told by USR2, all processes save, the job is requeued and goes on"


def scancelled(cluster: Cluster, training: Training) -> str:
    process = training.start()
    training.begun(process)
    cluster.run("scancel", training.job())
    said = training.finish(process, 2)
    assert "as CANCELLED by" in said and "the same command goes on" in said
    assert "resumed at" in training.finish(training.start())
    return "the command says who cancelled it; the same command goes on in a new job"


def launcher_killed(cluster: Cluster, training: Training) -> str:
    process = training.start()
    training.begun(process)
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()  # it only waits
    process.send_signal(signal.SIGINT)
    assert f"Slurm job {training.job()} goes on" in training.finish(process, 128 + signal.SIGINT)
    process = training.start()
    until(lambda: training.said().count(f"Slurm job {training.job()}\n") == 2, "not found again")
    process.kill()
    process.wait()
    assert "resumed at" not in training.finish(training.start())
    return "the job goes on; the same command finds it and waits for it"


def kill_after_sbatch(training: Training) -> None:
    """Between Slurm's yes and the note of it: sbatch itself, but slow to come back."""
    held = training.folder / "held"
    process = training.start(PATH=held_sbatch(held, before=False))
    until(training.live, "nothing was submitted")
    process.kill()
    process.wait()
    (held / "go").touch()
    assert not list(training.run.glob("jobs.json"))


def killed_after_sbatch(cluster: Cluster, training: Training) -> str:
    kill_after_sbatch(training)
    training.finish(training.start())
    return "its work was there before it: the same command finds it in the queue and waits"


def forgotten_after_sbatch(cluster: Cluster, training: Training) -> str:
    kill_after_sbatch(training)
    until(lambda: not training.live(), "a job that nobody waits for lives on")
    assert "trained to 96 images before" in training.finish(training.start())
    return "the job trains to its end; the same command publishes that, and submits nothing"


def killed_before_sbatch(cluster: Cluster, training: Training) -> str:
    """sbatch outlives its launcher and submits when the next one has begun to look."""
    held = training.folder / "held"
    process = training.start(PATH=held_sbatch(held, before=True))
    until((held / "called").exists, "no sbatch")
    process.kill()
    process.wait()
    assert not training.live()
    process = training.start()
    released(held, process, training.run.resolve() / "submit.lock")
    training.finish(process)
    return "the same command waits for the sbatch that outlived it, and finds its job"


def process_killed(cluster: Cluster, training: Training) -> str:
    """What the kernel does to a process that takes too much memory."""
    process = training.start()
    training.begun(process)
    cluster.kill(f"SLURM_JOB_ID={training.job()}", "SLURM_PROCID=1")
    said = training.finish(process, 2)
    assert "ended on node" in said and "as FAILED, exit" in said
    assert "resumed at" in training.finish(training.start())
    return "the others are ended, log, node and exit are shown; the same command goes on"


def preempted(cluster: Cluster, training: Training) -> str:
    process = training.start()
    training.begun(process)
    urgent = (
        "--partition=urgent",
        "--nodelist=node[3-4]",
        "--exclusive",
        "--chdir=/tmp",
        "--output=/dev/null",
    )
    cluster.run("sbatch", *urgent, "--wrap=sleep 1")
    assert "resumed at" in training.finish(process)
    assert restarts(cluster, training)
    return "told by SIGTERM, all processes save, the job is requeued and goes on"


def head_node_lost(cluster: Cluster, training: Training) -> str:
    process = training.start()
    training.begun(process)
    process.kill()
    process.wait()
    cluster.kill("D2IT_DAEMON=slurmctld -D")
    said = training.finish(training.start(), 2)
    assert "Slurm does not answer" in said and "nothing was submitted" in said
    cluster.start_slurmctld()
    cluster.skip_a_number()
    training.finish(training.start())
    # what else the controller has started twice: while one of them lives it may drain its node
    until(cluster.is_emptied, "jobs outlive scancel", cluster.state)
    cluster.resume_nodes()
    until(cluster.is_idle, "nodes are left that run no job", cluster.state)
    return "without slurmctld the command says so and submits nothing; then it finds the job"


def node_lost(cluster: Cluster, training: Training) -> str:
    """Silent, as without power. Killed, its processes would reset their connections, the first one
    die of that, and srun have the step ended: a message that slurmctld keeps for the lost node, and
    gives it up to a minute later for the requeued job, whose number and step are the same.
    """
    process = training.start()
    training.begun(process)
    tasks = (f"SLURM_JOB_ID={training.job()}", "SLURMD_NODENAME=node4")
    node = [tasks, ("D2IT_DAEMON=slurmd -D -N node4",)]  # and slurmstepd, its child
    for marks in node:
        cluster.kill(*marks, signum=signal.SIGSTOP)
    until(lambda: restarts(cluster, training), "it was not requeued")
    for marks in node:
        cluster.kill(*marks)
    cluster.start_node("node4")
    assert "resumed at" in training.finish(process)
    return "the job is requeued once its node is down, and goes on when there are two again"


def restarts(cluster: Cluster, training: Training) -> int:
    shown = cluster.run("scontrol", "-o", "show", "job", training.job())
    return int(shown.partition("Restarts=")[2].split()[0])


def elapsed(cluster: Cluster, training: Training) -> int:
    """Seconds since its job was started."""
    start = cluster.run("squeue", "--noheader", f"--jobs={training.job()}", "--format=%S")
    return int(time.time() - time.mktime(time.strptime(start.strip(), "%Y-%m-%dT%H:%M:%S")))


Fault = Callable[[Cluster, Training], str]
FAULTS: dict[str, tuple[Fault, str]] = {
    "time limit": (time_limit, TWO_NODES),
    "scancel": (scancelled, ONE_NODE),
    "Ctrl-C, then kill -9 of `d2it train`": (launcher_killed, ONE_NODE),
    "kill -9 between sbatch and the note of its job": (killed_after_sbatch, ONE_NODE),
    "the same, and nobody comes back before its end": (forgotten_after_sbatch, ONE_NODE),
    "kill -9 while sbatch is under way": (killed_before_sbatch, ONE_NODE),
    "kill -9 of one of two processes": (process_killed, TWO_NODES),
    "preemption": (preempted, SPARE),
    "slurmctld and `d2it train` killed": (head_node_lost, ONE_NODE),
    "a node lost": (node_lost, SPARE),
}
# At the same time, each row one after another; slurmctld, which all need, is killed at the end.
TOGETHER = [
    ["the same, and nobody comes back before its end"],
    ["preemption", "a node lost"],
    ["time limit"],
    ["scancel"],
    ["Ctrl-C, then kill -9 of `d2it train`"],
    ["kill -9 between sbatch and the note of its job"],
    ["kill -9 while sbatch is under way"],
    ["kill -9 of one of two processes"],
]
ALONE = ["slurmctld and `d2it train` killed"]

# After these the first job is over, and the same command submits another.
ANOTHER = ("scancel", "kill -9 of one of two processes")
# In these a command ends with one sentence, which says what to do.
REFUSED = (*ANOTHER, *ALONE)
HEADER = """# Faults on a Slurm cluster

For anyone who trains on a cluster, runs one, or changes how jobs are submitted and found again.

What becomes of a training on a real cluster (Slurm with slurmdbd, two nodes in each of two
partitions, GPUs in name only) when it is disturbed. `make test-slurm WRITE=docs/slurm_faults.md`
wrote this: it does all of it to real processes, with SIGKILL, and fails where a line here is not
what it saw. *Jobs* were submitted for the run in all, *at a time* is the most that were pending or
running together, and *equal* says whether the weights are bitwise those of a training that nobody
disturbed. Below the table: how many were *tried*, *survived* with equal weights, and were *refused*
meanwhile in one sentence that says what to do.

Snakemake itself is interrupted, then killed, during `snakemake --profile slurm all_tables`; typed
again, it submits one job for every run in all, and the tables are byte for byte those of a local
run.

| fault | what happened | jobs submitted | at a time | equal |
|---|---|---|---|---|
"""


@dataclass
class Row:
    happened: str
    jobs: int
    most: int
    equal: bool

    def line(self, name: str) -> str:
        equal = "yes" if self.equal else "no"
        return f"| {name} | {self.happened} | {self.jobs} | {self.most} | {equal} |"


def counts(rows: dict[str, Row | BaseException]) -> str:
    """The line below the table."""
    survived = sum(isinstance(row, Row) and row.equal for row in rows.values())
    return f"tried={len(FAULTS)} survived={survived} refused={len(REFUSED)}"


@pytest.fixture(scope="module")
def rows(
    cluster: Cluster, world: Path, training, request: pytest.FixtureRequest
) -> dict[str, Row | BaseException]:
    found: dict[str, Row | BaseException] = {}

    def run(name: str) -> None:
        began = time.monotonic()
        fault, launcher = FAULTS[name]
        watched = Watched(training(fault.__name__, launcher))
        watcher = threading.Thread(target=watched.watch, daemon=True)
        watcher.start()
        try:
            happened = fault(cluster, watched.training)
            watched.over.set()
            found[name] = Row(
                happened, len(watched.ids), watched.most, watched.training.equal(world)
            )
        except BaseException as error:
            found[name] = error
        finally:
            watched.over.set()
        print(f"{name}: {time.monotonic() - began:.0f} s")

    def in_turn(names: list[str]) -> None:
        for name in names:
            run(name)

    with ThreadPoolExecutor(len(TOGETHER)) as pool:
        list(pool.map(in_turn, TOGETHER))
    in_turn(ALONE)
    page = request.config.getoption("--write", None)
    if page:
        ordered = [(name, found[name]) for name in FAULTS]  # not as they ended
        lines = [row.line(name) for name, row in ordered if isinstance(row, Row)]
        lines += ["", counts(found)]
        Path(page).write_text(HEADER + "\n".join(lines) + "\n" + sites.page())
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_twice_and_nothing_lost(rows, name: str) -> None:
    row = rows[name]
    if isinstance(row, BaseException):
        raise row
    assert row.most == 1 and row.equal
    assert row.jobs == 1 + (name in ANOTHER)
    line = row.line(name)
    assert line in PAGE.read_text().splitlines(), f"{PAGE} lacks: {line}"


def test_the_page_counts_them(rows) -> None:
    assert counts(rows) in PAGE.read_text().splitlines()
