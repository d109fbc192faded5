"""What is made of Slurm's answers; that it answers so is tested on a cluster, in tests/slurm."""

import json
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from d2it.errors import UserError
from d2it.files import write_json
from d2it.jobs import last_word, outlook, slurm, slurm_commands

ROWS = """\
7|PREEMPTED|node1|40|billing=1,cpu=1,gres/gpu=1,node=1|None|0:0
7|RUNNING|node[1-2]|5|billing=2,cpu=2,gres/gpu=2,node=2|None|0:0
8|CANCELLED by 1000|None assigned|0||PartitionNodeLimit|0:0
"""


def test_all_starts_of_a_job_are_one_answer() -> None:
    found = slurm.parse(ROWS, live={"7"})
    assert found["7"] == slurm.Accounting("RUNNING", "node[1-2]", 45, 2, "", "0:0", True)
    assert found["8"].reason == "PartitionNodeLimit" and not found["8"].live
    ended = "ended on no node as CANCELLED by 1000, exit 0:0, reason PartitionNodeLimit"
    assert str(found["8"]) == ended


def test_one_question_a_minute_for_all_runs(tmp_path: Path, monkeypatch) -> None:
    """Jobs of runs that nobody asked about here are asked about too."""
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path))
    for run, job in (("dvae-1", "7"), ("dit_b-2", "8")):
        slurm.record(tmp_path / run, job, 1, "dvae")
        slurm.record(tmp_path / run, job, 1, "dvae")
        assert slurm.jobs_of(tmp_path / run) == [job]
    asked: list[set[str]] = []

    def ask(jobs: set[str], _: object) -> dict[str, slurm.Accounting]:
        asked.append(jobs)
        return slurm.parse(ROWS, live={"7"})

    monkeypatch.setattr(slurm, "_ask", ask)
    assert slurm.accounting(["7"])["7"].elapsed == 45
    assert not slurm.accounting(["8"])["8"].live and slurm.accounting(["9"]) == {}
    assert asked == [{"7", "8"}]
    path = tmp_path / ".slurm" / "accounting.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"asked": time.time() - 61}))
    slurm.accounting(["9"])
    assert asked[1:] == [{"7", "8", "9"}]


NO_RECORDS = [b"", b"3", b"{}", b"[]", b"{", b"\xff", b'[{"job": "7", "parts": "two"}]']


@pytest.mark.parametrize("text", [*NO_RECORDS, b'{"asked": "now", "jobs": {}}'])
def test_damaged_records_tell_of_nothing(tmp_path: Path, monkeypatch, text: bytes) -> None:
    """Slurm is asked anew."""
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path))
    monkeypatch.setattr(slurm, "_ask", lambda *_: slurm.parse(ROWS, live={"7"}))
    answers = tmp_path / ".slurm" / "accounting.json"
    jobs = tmp_path / ".arrays" / "d2it-encode-12ab-2" / "jobs.json"
    for path in (answers, jobs):
        path.parent.mkdir(parents=True)
        path.write_bytes(text)
    assert slurm.accounting(["7"])["7"].elapsed == 45
    assert outlook.arrays() == [] and slurm.recorded(jobs.parent) == []
    assert last_word.read(jobs) is None


def test_records_of_another_version(tmp_path: Path, monkeypatch) -> None:
    """What a newer one says beside is left alone; what says nothing of a job is no answer."""
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path))
    sound = slurm.Accounting("RUNNING", "node1", 45)
    jobs = {"7": asdict(sound) | {"cores": 8}, "8": {}, "9": {"state": 3}}
    write_json(tmp_path / ".slurm/accounting.json", {"asked": time.time(), "jobs": jobs})
    assert slurm.accounting(["7", "8", "9"]) == {"7": sound}


def test_who_cannot_write_in_the_cache_asks_for_himself(tmp_path: Path, monkeypatch) -> None:
    """Else whoever waits would never hear that a job was killed."""
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path))
    slurm.record(tmp_path / "dvae-1", "7", 1, "dvae")
    (tmp_path / ".slurm").write_text("no folder")  # which stops even root
    asked: list[set[str]] = []

    def ask(jobs: set[str], _: object) -> dict[str, slurm.Accounting]:
        asked.append(jobs)
        return slurm.parse(ROWS, live=set())

    monkeypatch.setattr(slurm, "_ask", ask)
    for _ in range(2):
        assert not slurm.accounting(["8"])["8"].live
    assert asked == [{"7", "8"}], "at most once a minute"
    slurm.accounting(["8"], every=0)
    assert len(asked) == 2


def test_a_queue_that_cannot_be_asked(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="squeue was not found.*nothing was submitted"):
        slurm.queue()
    assert slurm._ask({"7"}, {}) == {}


def test_an_end_that_sacct_hears_of_late(monkeypatch) -> None:
    """squeue does not list the job any more; after two minutes it is believed."""
    gone = "slurm_load_jobs error: Invalid job id specified"

    def run(command: str, *_: str) -> subprocess.CompletedProcess[str]:
        answer = (0, ROWS, "") if command == "sacct" else (1, "", gone)
        return subprocess.CompletedProcess([], *answer)

    monkeypatch.setattr(slurm, "run", run)
    first = slurm._ask({"7", "8"}, {})
    assert (first["7"].state, first["7"].live) == ("ENDING", True)
    assert slurm._ask({"7", "8"}, first) == first
    ago = first | {"7": replace(first["7"], missed=first["7"].missed - slurm.LOST)}
    again = slurm._ask({"7", "8"}, ago)
    assert (again["7"].state, again["7"].live) == ("RUNNING", False)
    assert slurm._ask({"7", "8"}, again) == again
    assert first["8"] == again["8"] and not again["8"].live
    told = "left the queue on node[1-2], and sacct knows no more of it than RUNNING"
    assert str(again["7"]) == told


def test_the_queue_knows_better_than_accounting(monkeypatch) -> None:
    """Whose reason is that of a start before, if slurmdbd is there at all."""

    def run(command: str, *_: str) -> subprocess.CompletedProcess[str]:
        told = (
            ROWS
            if command == "sacct"
            else "7|PENDING||launch failed requeued held\n9|RUNNING|n2|None"
        )
        return subprocess.CompletedProcess([], 0, told, "")

    monkeypatch.setattr(slurm, "run", run)
    found = slurm._ask({"7", "9"}, {})
    assert found["7"].now() == "PENDING launch failed requeued held" and found["7"].held
    assert (found["7"].elapsed, found["7"].gpus) == (45, 2)
    assert found["9"] == slurm.Accounting("RUNNING", "n2") and not found["9"].held


def test_nobody_elses_options_reach_slurm(monkeypatch) -> None:
    for name in ("SBATCH_EXPORT", "SQUEUE_STATES", "SRUN_MEM_BIND", "SLURM_MEM_PER_CPU"):
        monkeypatch.setenv(name, "theirs")
    for name in ("SLURM_CONF", "SLURM_CLUSTERS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "ours")
    given = slurm_commands.run("env").stdout.splitlines()
    assert not [line for line in given if line.endswith("=theirs")]
    assert len([line for line in given if line.endswith("=ours")]) == 3


@pytest.mark.parametrize("sacct", ["echo 'storage is disabled' >&2; exit 1", "exit 0"])
def test_a_job_that_nobody_knows_is_lost_after_two_minutes(
    tmp_path: Path, monkeypatch, sacct: str
) -> None:
    """Submitted just now, it may show later; of one that ended, what sacct once told is kept."""
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def answers(program: str, words: str) -> None:
        (tmp_path / program).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / program).chmod(0o755)

    def look() -> dict[str, slurm.Accounting]:
        return slurm.accounting(["7", "8"], every=0)

    def later(seconds: float) -> None:
        known = json.loads(path.read_text())
        for job in known["jobs"].values():
            job["missed"] -= seconds if job["missed"] else 0
        path.write_text(json.dumps(known))

    ended = slurm.Accounting("COMPLETED", "node1", live=False)
    path = tmp_path / "runs" / ".slurm" / "accounting.json"
    write_json(path, {"asked": 0.0, "jobs": {"8": asdict(ended)}})
    slurm.record(tmp_path / "runs" / "dvae-1", "7", 1, "dvae")
    answers("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    answers("sacct", sacct)
    for seconds in (60, 50, 0):
        found = look()
        assert (found["7"].now(), found["7"].live, found["8"]) == ("ENDING", True, ended)
        later(seconds)
    answers("squeue", "echo '7|PENDING||Priority'")
    assert look()["7"] == slurm.Accounting("PENDING", reason="Priority")
    answers("squeue", "exit 0")
    assert look()["7"].now() == "ENDING", "missed anew"
    later(120)
    gone = slurm.Accounting("GONE", live=False)
    assert look() == {"7": gone, "8": ended} == look()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("sbatch: error: Batch job submission failed: Invalid qos", "Invalid qos"),
        ("sbatch: error: Invalid --mem specification\nmore", "Invalid --mem specification"),
        ("sbatch: unrecognized option '--a'\nTry \"sbatch --help\"", "unrecognized option '--a'"),
        (
            "sbatch: error: lua: GPUs must be typed\nsbatch: error: ask HPC\n"
            "sbatch: error: Batch job submission failed: Unspecified error",
            "GPUs must be typed; ask HPC",
        ),
        ("sbatch: error: Batch job submission failed: Unspecified error", "Unspecified error"),
        ("a wrapper's words\n\nof two lines", "a wrapper's words; of two lines"),
        ("", "no reason given"),
    ],
)
def test_what_sbatch_says_is_one_line(told: str, why: str) -> None:
    assert slurm_commands.refusal(told) == why
