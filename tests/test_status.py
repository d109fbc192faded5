"""`d2it status` tells the truth about live, killed, failed, finished and ruined run folders."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2it.commands.status import _page, table
from d2it.config import paths
from d2it.config.recipe import KINDS
from d2it.config.run import run_of, runs_of
from d2it.cost.plan import price_run
from d2it.cost.rate import rate_of
from d2it.files import canonical_digest, write_json
from d2it.jobs import slurm
from d2it.jobs.outlook import Array, Left, arrays, left
from d2it.jobs.status import gpu_hours, statuses
from d2it.machine.gpus import GPUS, find_gpu
from d2it.text import amount, duration
from tests.composed import composed

ROOT = Path(__file__).parents[1]
RUN = "dit_b"
HOLD = """
import sys, time
from pathlib import Path
from d2it.runs.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def config():
    return composed("scale=smoke")


@pytest.fixture
def folder(config, tmp_path, monkeypatch):
    """The folder of a run, in a place where nothing has been made yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("D2IT_RUNS", raising=False)
    return run_of(config, RUN).folder


def look(config, run=RUN):
    return {status.run: status for status in statuses(config)}[run]


def trained(folder, images=32, rate=4.0, device="cpu", processes=1):
    """A run folder as training leaves it."""
    start = {"host": "node1", "device": device, "processes": processes, "images": 0}
    write_json(folder / "provenance.json", {"starts": [start]})
    line = {"images": images, "step": 1, "loss/dit": 1.5, "images_per_second": rate}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "log.txt").write_text(f"2026-01-01 00:00:00 {images}/64 images, {rate} images/s\n")
    (folder / "state" / f"{images:012d}").mkdir(parents=True)


def test_in_a_new_clone_runs_wait_for_what_they_are_made_from(config, folder):
    found = statuses(config)
    assert [status.run for status in found] == [r for k in KINDS for r in getattr(config.runs, k)]
    assert {status.state for status in found} == {"waiting"}
    assert look(config).waits_for == "data/smoke/latents/dvae/manifest.json"
    write_json(paths.latents(config, "dvae") / "manifest.json", {})
    assert look(config).state == "not begun"


def test_a_live_run_and_the_same_after_kill_9(config, folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder.resolve()],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout.readline() == "held\n"
    trained(folder, images=32, rate=4.0)
    status = look(config)
    assert (status.state, status.node) == ("running", socket.gethostname())
    assert (status.images, status.of, status.images_per_second) == (32, 64, 4.0)
    assert 0 < status.seconds_left <= (64 - 32) / 4.0
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    status = look(config)
    assert (status.state, status.node, status.images) == ("stopped", "node1", 32)
    assert status.seconds_left is None


@pytest.mark.parametrize(("age", "state"), [(1.0, "running"), (60.0, "stopped")])
def test_a_heart_on_another_host(config, folder, age, state):
    trained(folder)
    beat = {"host": "elsewhere", "pid": 1, "beat": 7, "time": time.time() - age}
    write_json(folder / "heartbeat.json", beat)
    assert look(config).state == state


def test_the_sentence_that_ended_a_run(config, folder):
    trained(folder)
    log = folder / "log.txt"
    log.write_text(log.read_text() + "2026-01-01 00:00:09 error: The loss is not finite.\n")
    status = look(config)
    assert (status.state, status.error) == ("failed", "The loss is not finite.")
    log.write_text(log.read_text() + "2026-01-01 00:01:00 resumed at 32/64 images\n")
    assert look(config).state == "stopped"
    snakemakes = Path("logs", config.name, "train", f"{RUN}.log")
    snakemakes.parent.mkdir(parents=True)
    snakemakes.write_text("first\nd2it: error: No space: free some.\n")
    assert look(config).error == "No space: free some."
    os.utime(snakemakes, (1, 1))  # of an earlier attempt
    assert look(config).state == "stopped"


def test_finished_published_and_longer_than_before(config, folder):
    trained(folder, images=64)
    write_json(folder / "done.json", {"images": 64})
    assert look(config).state == "finished"
    header = {"recipe_digest": canonical_digest(run_of(config, RUN).recipe), "images": 64}
    write_json(paths.model(config, RUN) / "model.json", header)
    assert look(config).state == "published"
    longer = composed("scale=smoke", "training.dit.images=640")
    status = look(longer)
    assert (status.state, status.images, status.of) == ("stopped", 64, 640)


def test_runs_of_other_settings_are_listed_too(config, folder):
    trained(paths.runs_folder() / "d2it_b-01234567")
    (paths.runs_folder() / "notes").mkdir()
    other = statuses(config)[-1]
    assert (other.folder, other.kind, other.images, other.of) == ("d2it_b-01234567", None, 32, 64)
    assert other.state == "stopped"


def test_gpu_hours_are_time_by_processes_from_the_start_that_wrote_each_line():
    starts = [
        {"device": "NVIDIA H200", "processes": 2, "images": 0},
        {"device": "cpu", "processes": 8, "images": 7200},
        {"device": "NVIDIA H200", "processes": 4, "images": 10800},
    ]
    lines = [(3600, 1.0), (7200, 2.0), (10800, 1.0), (14400, 1.0)]
    assert gpu_hours(lines, starts) == pytest.approx(2 * 1 + 2 * 0.5 + 0 + 4 * 1)
    again = {"device": "NVIDIA H200", "processes": 3, "images": 5000}  # after a kill, from there
    assert gpu_hours(lines, [*starts, again]) == pytest.approx(2 * 1 + 3 * (0.5 + 1 + 1))
    assert gpu_hours(lines, starts[1:2]) is None and gpu_hours([], []) is None


FILES = ("heartbeat.json", "jobs.json", "provenance.json", "metrics.jsonl", "log.txt", "done.json")
RUBBISH = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"images": "x", "time": [], "host": 3}',
    b"\xff\x00" * 99,
    b"[" * 10**5,
)
WRONG = [b'{"starts": [3, {"device": "NVIDIA"}], "job": {}, "images": []}', *RUBBISH]


def test_ruined_run_folders_are_answers(config, folder):
    draw = random.Random(0)
    foreign = paths.runs_folder() / "dit_b-01234567"
    for _ in range(60):
        for path in (where / name for where in (folder, foreign) for name in FILES):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            if draw.random() < 0.1:
                path.mkdir()
            else:
                path.write_bytes(draw.choice(WRONG))
        assert max(map(len, table(statuses(config), 80))) <= 80


def test_a_file_where_the_runs_should_be(config, folder):
    Path("runs").write_text("")
    assert look(config).state == "waiting"


def test_the_page_fits_the_terminal_and_the_command_is_light(config, folder):
    trained(folder, images=32, rate=1234.5, device="NVIDIA A800-SXM4-80GB", processes=8)
    trained(paths.runs_folder() / "d2it_b_grain_loss-01234567", images=32)
    Path("data/smoke").mkdir(parents=True)  # a study that has begun
    command = [sys.executable, "-X", "importtime", "-m", "d2it", "status", "scale=smoke"]
    for columns in ("80", "120"):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": columns, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= int(columns)
        assert "| torch\n" not in done.stderr
    assert "stopped" in done.stdout and "d2it_b_grain_loss-01234567" in done.stdout


def test_amounts_and_durations():
    assert [amount(n) for n in (640, 25_600, 1_024_933_376)] == ["640", "25.6k", "1.02G"]
    seconds = (12, 600, 7260, 86_400 * 3.5)
    assert [duration(s) for s in seconds] == ["12 s", "10 min", "2 h", "4 d"]


@pytest.mark.parametrize("seconds", ["soon", "0", "-1"])
def test_a_watch_that_makes_no_sense(seconds, capsys):
    from d2it.cli import main

    assert main(["status", f"--watch={seconds}", "scale=smoke"]) == 2
    assert "give the seconds between two updates" in capsys.readouterr().err


SACCT = """#!/bin/sh
echo asked >> {folder}/asked
echo '7|TIMEOUT|node1|3600|gres/gpu=4|None|0:0'
echo '8|{state}|{nodes}|{elapsed}|{gpus}|{reason}|0:0'
"""


@pytest.mark.parametrize(
    ("answer", "live", "state", "hours", "node"),
    [
        (("PENDING", "None assigned", 0, "", "Priority"), True, "pending", 4.0, None),
        (("RUNNING", "node[1-2]", 1800, "gres/gpu=8", "None"), True, "starting", 8.0, "node[1-2]"),
        (("OUT_OF_MEMORY", "node2", 900, "gres/gpu=4", "None"), False, "failed", 5.0, "node2"),
        (("CANCELLED by 0", "node2", 900, "gres/gpu=4", "None"), False, "stopped", 5.0, "node2"),
    ],
)
def test_what_slurm_knows(config, folder, monkeypatch, answer, live, state, hours, node):
    """Slurm's own answers stand in for it here: tests/slurm asks a real one."""
    trained(folder)
    jobs = [{"job": job, "tasks": 4, "user": "me", "time": 0.0} for job in ("7", "8")]
    write_json(folder / "jobs.json", jobs)
    programs = Path("programs").resolve()
    programs.mkdir()
    names = ("state", "nodes", "elapsed", "gpus", "reason")
    sacct = SACCT.format(folder=programs, **dict(zip(names, answer, strict=True)))
    (programs / "sacct").write_text(sacct)
    shown = "|".join(["8", answer[0], answer[1].replace("None assigned", ""), answer[4]])
    (programs / "squeue").write_text(f"#!/bin/sh\necho '{shown}'\n" if live else "#!/bin/sh\n")
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    for _ in range(3):
        status = look(config)
        assert (status.state, status.job, status.node) == (state, "8", node)
        assert status.gpu_hours == hours
    assert (programs / "asked").read_text() == "asked\n"
    assert status.waits_for == ("Priority" if state == "pending" else None)
    if state == "failed":
        assert status.error == "Slurm job 8 ended on node2 as OUT_OF_MEMORY, exit 0:0."


def test_what_is_left_of_a_study(config, folder, monkeypatch):
    """At a run's own rate, else at its kind's; and the arrays that are at work."""
    trained(folder, images=32, rate=4.0)
    found = statuses(config)
    runs = {status.folder: status for status in found if status.kind == "dit"}
    unmeasured = {status.folder for status in found if status.kind != "dit"}
    seconds = sum(status.of / 4 for status in runs.values()) - 32 / 4
    assert left(config, found)["training"] == Left(pytest.approx(seconds), len(unmeasured))
    programs = Path("programs").resolve()
    programs.mkdir()
    shown = "9_0|RUNNING|node1|None", "9_2|PENDING||launch failed requeued held"
    squeue = "\n".join(f"echo '{line}'" for line in shown)
    for name, lines in (("squeue", squeue), ("sacct", "echo '9_1|COMPLETED|node2|60||None|0:0'")):
        (programs / name).write_text(f"#!/bin/sh\n{lines}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    slurm.record(paths.runs_folder() / ".arrays" / "d2it-evaluate-12ab-3", "9", 3, "evaluate dit_b")
    states = {"RUNNING": 1, "COMPLETED": 1, "PENDING launch failed requeued held": 1}
    assert arrays() == [Array("evaluate dit_b", "9", 3, states)]
    page = _page(config)
    said = rf"run after run: training \d+ (s|min); .* rate yet: training {len(unmeasured)}, enc"
    assert re.search(said, page.replace("\n", " ")), page
    assert "evaluate dit_b  Slurm job 9 of 3 parts  1 RUNNING, 1 COMPLETED, 1 PENDING l" in page


def seconds_of(path, seconds):
    write_json(paths.took(path), {"seconds": seconds})


def test_what_is_left_beside_training(config, folder):
    """At what was taken here for its price; stale and unknown times are no pace."""
    runs = {run.folder: run for run in runs_of(config).values()}
    rate = rate_of(find_gpu(next(iter(GPUS))))
    hours = {run.name: price_run(run, rate).hours["evaluate"] for run in runs.values()}
    rest = left(config, [])
    assert rest["evaluating"] == Left(0, len(runs)) and rest["encoding"].unmeasured
    mine = run_of(config, RUN)
    header = {"format": "d2it-evaluation", "version": 1, "evaluations": {}, "images": mine.images}
    write_json(mine.evaluation, header | {"recipe_digest": mine.digest})
    assert left(config, [])["evaluating"] == Left(0, len(runs) - 1), "made elsewhere"
    for label, seconds in (("main-0badc0de", 99.0), ("main-01234567", 8.0), ("best-01234567", 4.0)):
        seconds_of(mine.folder / "evaluations" / label, seconds)
    os.utime(paths.took(mine.folder / "evaluations" / "main-0badc0de"), (1, 1))
    others = [run for run in runs.values() if run.kind == "dit" and run.name != RUN]
    expected = sum(12 * hours[run.name] / hours[RUN] for run in others)
    unmeasured = len([run for run in runs.values() if run.kind != "dit"])
    assert others and expected
    assert left(config, [])["evaluating"] == Left(pytest.approx(expected), unmeasured)
    for wrong in (0.0, None):  # units of before it was recorded; damaged
        seconds_of(mine.folder / "evaluations" / "best-01234567", wrong)
        assert left(config, [])["evaluating"] == Left(0, len(runs) - 1)
    write_json(mine.evaluation, header | {"recipe_digest": "other"})
    assert left(config, [])["evaluating"] == Left(0, len(runs))


def test_a_submitted_run_where_slurm_cannot_be_asked(config, folder, monkeypatch):
    write_json(folder / "jobs.json", [{"job": "7"}])
    monkeypatch.setenv("PATH", "")
    assert look(config).state == "pending"
