"""Stages as arrays of jobs on a real cluster: the bytes of one process."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2it import cli
from d2it.config import Config, load, paths
from d2it.config.run import run_of
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import held_sbatch, released, until, wrapped
from tests.tiny_world import OVERRIDES, build_world, enter

RUN = "dit_b"
EVALUATE = ("evaluate", RUN)
SEEDS = [*OVERRIDES, "evaluation.seeds=[0,1,2]"]  # a unit each
LAUNCHER = """cluster: slurm
device: cpu
poll: 3
resources: {processes: 1, gpus: 1, cpus: 1, minutes: 60, shares: 2, at_once: 2}
"""


@pytest.fixture(scope="module")
def config(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch, block=16)  # as other processes
        Path("array.yaml").write_text(LAUNCHER)
        patch.setenv("D2IT_LAUNCHER", str(Path("array.yaml").resolve()))
        build_world([RUN])
        yield load(overrides=SEEDS)


@pytest.fixture(scope="module")
def alone(config: Config) -> bytes:
    """The evaluation by one process, of which nothing is left."""
    assert cli.main([*EVALUATE, *SEEDS, "--processes", "1"]) == 0
    run_of(config, RUN).folder.rename("alone")
    whole = paths.evaluation(config, RUN).read_bytes()
    paths.evaluation(config, RUN).unlink()
    return whole


def start(
    *words: str, shares: int = 2, at: Path = Path("."), **changes: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "d2it", *(words or EVALUATE), *SEEDS]
    launcher = f"{os.environ['D2IT_LAUNCHER']} resources.shares={shares}"
    environment = os.environ | {"D2IT_LAUNCHER": launcher} | changes
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=at, env=environment)


def said_by(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == code, said[-3000:]
    return said


def computing(share: str = "") -> list[int]:
    """Processes that compute a share here, or this share."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text().split("\0")
            here = os.readlink(entry / "cwd") == os.getcwd()
        except OSError:
            continue
        if here and "--share" in words and share in ("", words[words.index("--share") + 1]):
            found.append(int(entry.name))
    return found


def silent_squeue(folder: Path) -> str:
    """A PATH with a squeue that leaves a byte in `asked` and fails while there is `busy`."""
    lines = [f"printf . >> {folder}/asked", f"[ ! -e {folder}/busy ] || exit 1"]
    return wrapped(folder, "squeue", *lines, f'exec {shutil.which("squeue")} "$@"')


def test_whoever_waits_is_killed(cluster: Cluster, config: Config, alone: bytes) -> None:
    """While sbatch is under way, then while jobs compute; two find one array in the queue, though
    one of them asks for other shares. Two jobs at a time; no torch in who waits."""
    held = Path("held").resolve()
    process = start(shares=3, PATH=held_sbatch(held, before=True))
    until((held / "called").exists, "no sbatch")
    process.kill()
    process.wait()
    process = start(shares=3)
    released(held, process, paths.runs_folder().resolve() / ".arrays" / "lock")
    units = run_of(config, RUN).folder
    until(lambda: list(units.rglob("*.parts/*.safetensors")), "no unit was computed")
    running = cluster.run("squeue", "--noheader", "--states=R", "--format=%i").split()
    assert len(running) <= 2
    process.kill()
    process.wait()
    others = start(shares=3, PYTHONPROFILEIMPORTTIME="1"), start(shares=5)
    said = [said_by(process) for process in others]
    assert not re.search(r"\| +torch$", said[0], re.M)
    assert "5 parts" not in said[1]
    assert paths.evaluation(config, RUN).read_bytes() == alone

    def submitted() -> int:
        named = cluster.run("sacct", "--noheader", "--allocations", "--format=JobName%50").split()
        return len([name for name in named if name.startswith("d2it-evaluate-")])

    until(lambda: submitted() >= 3 + 1, "sacct, which is late, never knew the last job")
    assert submitted() == 3 + 1
    assert [path.name for path in (paths.runs_folder() / ".arrays").iterdir()] == ["lock"]


def test_jobs_of_an_array_are_disturbed(cluster: Cluster, config: Config, alone: bytes) -> None:
    """By SIGKILL to a process, then by scancel, then by the time limit: each time the sentence of
    what it was, or a requeue; nothing that was computed is lost. Neither a silent squeue nor Ctrl-C
    ends anything but the waiting.
    """
    paths.evaluation(config, RUN).unlink()
    run_of(config, RUN).folder.rename("before")
    silent = Path("silent").resolve()
    process = start(PATH=silent_squeue(silent))
    until(lambda: computing("2/2"), "the second share was not begun")
    [second] = computing("2/2")
    os.kill(second, signal.SIGSTOP)
    (silent / "busy").touch()
    asked = (silent / "asked").stat().st_size
    until(lambda: (silent / "asked").stat().st_size >= asked + 3, "squeue was not asked again")
    (silent / "busy").unlink()
    os.kill(second, signal.SIGKILL)
    assert re.search(
        r"Part 2/2 on node\d .* was killed by signal 9, .*: the same", said_by(process, 2)
    )

    process = start()
    until(computing, "no share was begun")
    cluster.run("scancel", "--user=root")
    said = said_by(process, 2)
    assert re.search(r"before 1/2, .* job \d+_0 ended on node1 as CANCELLED by 0, exit", said), said

    process = start()
    until(lambda: computing("2/2"), "the second share was not begun")
    running = cluster.run("squeue", "--noheader", "--states=R", "--format=%i").split()
    [job] = [job for job in running if job.endswith("_1")]
    cluster.run("scancel", "--signal=USR2", job)
    process.send_signal(signal.SIGINT)
    assert re.search(r"Slurm job \d+ goes on with evaluate dit_b:", said_by(process, 130))
    said_by(start())
    assert paths.evaluation(config, RUN).read_bytes() == alone
    states = cluster.run("sacct", "--noheader", "--duplicates", "--allocations", "--format=State")
    assert "REQUEUED" in states


def test_other_stages(config: Config, tmp_path: Path) -> None:
    """Latents, a reference and samples, at once: the files of one process, byte for byte."""
    sample = ["sample", "--run", RUN, "--seeds", "0-7", "--format", "npz"]
    assert cli.main([*sample, *SEEDS, "--processes", "1"]) == 0
    elsewhere = Path("elsewhere")  # to sample needs latents
    shutil.copytree("data", elsewhere / "data")
    shutil.copytree("results", elsewhere / "results")
    stages = [
        (elsewhere, paths.latents(config, "dvae"), ["encode", "dvae"]),
        (elsewhere, paths.reference(config, "photos"), ["reference", "photos"]),
        (Path("."), Path("samples", RUN), sample),
    ]
    before, processes = [], []
    for at, folder, words in stages:
        before.append(contents(at / folder))
        shutil.rmtree(at / folder)
        processes.append(start(*words, at=at, shares=1 if words == sample else 2))
    for process in processes:
        said_by(process)
    assert [contents(at / folder) for at, folder, _ in stages] == before


def test_two_commands_for_one_place(config: Config) -> None:
    """Other words for the same latents are another array, which waits until the first has left the
    queue; a process of this machine is told who makes them.
    """
    folder = paths.latents(config, "dvae")
    before = contents(folder)
    shutil.rmtree(folder)
    first = start("encode", "dvae")
    leased = paths.runs_folder() / ".leases"
    until(lambda: list(leased.glob("*-2-of-2/heartbeat.json")), "no share took its lease")
    [second] = computing("2/2")
    os.kill(second, signal.SIGSTOP)
    other = start("encode", "dvae", "--wait")
    said = said_by(start("encode", "dvae", "--processes", "1"), 2)
    assert re.search(r"A share of .* is being made by process \d+ on ", said), said
    os.kill(second, signal.SIGCONT)
    said_by(first)
    assert f"{folder} is being made by Slurm job" in said_by(other)
    assert contents(folder) == before and not leased.exists()


def test_the_launcher_of_a_trial_cluster_submits_arrays(cluster: Cluster, config: Config) -> None:
    """As who has started it is told to: `source .slurm/env`."""
    at, folder = Path("tried"), paths.reference(config, "photos")
    shutil.copytree("data", at / "data")
    before = contents(at / folder)
    shutil.rmtree(at / folder)
    words = shlex.join([sys.executable, "-m", "d2it", "reference", "photos", *SEEDS])
    typed = ["sh", "-c", f". {shlex.quote(str(cluster.folder))}/env; {words}"]
    said = said_by(subprocess.Popen(typed, stderr=subprocess.PIPE, text=True, cwd=at))
    array = re.findall(r"^reference photos: Slurm job (\d+), 2 parts$", said, re.M)
    assert len(array) == 1 and contents(at / folder) == before, said

    def known() -> list[str]:
        shown = ("sacct", "--noheader", "--allocations", "--format=JobID%30", f"--jobs={array[0]}")
        return sorted(cluster.run(*shown).split())

    until(lambda: known() == [f"{array[0]}_0", f"{array[0]}_1"], "no array", lambda: str(known()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_users_mistake_is_told(config: Config) -> None:
    last = said_by(start("evaluate", "d2it_b", shares=1), 2).splitlines()[-1]
    assert last.startswith("d2it: error:") and "make it with `d2it train d2it_b " in last
