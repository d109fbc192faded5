"""How far a workflow is: counts, one estimate, and what `make demo` prints of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2it.config.run import run_of
from d2it.jobs.progress import Job, Progress, Training, in_order, prices
from tests.commands import command
from tests.composed import composed

ROOT = Path(__file__).parents[1]
COSTS = {("train_dit", "a"): 2.0, ("train_dit", "b"): 4.0, ("evaluate_dit", "a"): 1.0}
WORKFLOW = """
rule all:
    input: "tables/1", "figures/1"
rule table:
    output: "tables/{n}"
    log: "logs/table{n}"
    shell: "echo words of a command --params 'my runs/params.yaml' 2>&1; touch {output}"
rule figure:
    input: "tables/1"
    output: "figures/{n}"
    log: "logs/figure{n}"
    shell: "[ -n \\"${{OK:-}}\\" ] || (echo 'd2it: error: Full.' >{log}; false); touch {output}"
"""


def progress(**counts: int) -> Progress:
    return Progress(counts, cores=1, costs=COSTS)


def test_there_is_no_estimate_before_anything_is_measured():
    one = progress(train_dit=2)
    one.begin(1, Job("train_dit", "a", begun=0))
    assert one.left(5, {}) is None and "no estimate yet" in one.headline(None)


def test_what_a_stage_took_for_its_cost_it_takes_for_the_rest():
    one = progress(train_dit=2, evaluate_dit=1, table=3)
    one.begin(1, Job("train_dit", "a", begun=0))
    one.end(1, now=20)  # 10 s for a cost of 1: 40 s for b, 10 s to evaluate a
    assert one.left(20, {}) == pytest.approx(50)
    one.begin(2, Job("train_dit", "b", begun=20))
    assert one.left(35, {}) == pytest.approx(35)
    one.begin(3, Job("table", "1", begun=35))
    one.end(3, now=37)  # 2 s for each of the tables that are left
    assert one.left(37, {}) == pytest.approx(33 + 4)
    assert one.waiting() == {"train_dit": 0, "evaluate_dit": 1, "table": 2}


def test_a_training_tells_its_own_pace_and_counts_whole_when_it_was_resumed():
    one = progress(train_dit=2)
    one.begin(1, Job("train_dit", "a", begun=0))
    told = {"a": Training(whole=100, left=30)}
    assert one.left(10, told) == pytest.approx(30 + 200)
    one.end(1, now=40)
    assert one.left(40, {}) == pytest.approx(200)


def test_cores_share_the_rest_but_not_one_job():
    one = Progress({"train_dit": 2}, cores=2, costs=COSTS)
    one.begin(1, Job("train_dit", "a", begun=0))
    one.end(1, now=20)
    assert one.left(20, {}) == pytest.approx(20)
    one.begin(2, Job("train_dit", "b", begun=20))
    assert one.left(20, {}) == pytest.approx(40)


def test_a_line_for_each_stage_in_the_order_of_the_chain():
    rules = ["figure", "train_dit", "evaluate_dvae", "prepare", "train_dvae", "table"]
    ordered = sorted(rules, key=in_order)
    assert ordered == ["prepare", "train_dvae", "train_dit", "evaluate_dvae", "table", "figure"]
    one = progress(prepare=1, train_dit=3)
    one.begin(1, Job("train_dit", "a", begun=0))
    head, first, second = one.table()
    assert head.split() == ["stage", "done", "running", "left"]
    assert first.split() == ["prepare", "0", "0", "1"]
    assert second.split() == ["train", "dit", "0", "1", "2", "a"]


def test_every_long_job_of_the_demo_has_a_cost():
    config = composed()
    found = prices(config)
    for run in ("dvae", "grain", "d2it_b", "dit_b"):
        kind = run_of(config, run).kind
        assert found[f"train_{kind}", run] > 0
        assert kind == "grain" or found[f"evaluate_{kind}", run] > 0
    assert found["encode", "dvae"] > 0 and found["reference", "photos"] > 0
    assert found["train_content", "d2it_xl_classes"] > found["train_content", "d2it_b"]


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "Snakefile").write_text(WORKFLOW)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "all", "--logger", "stages"]
    told = os.environ | {"PYTHONPATH": f"{ROOT / 'tools'}:{ROOT}"} | environment
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True)


def test_snakemake_with_it_says_how_far_it_is_and_keeps_its_words(tmp_path):
    settings = tmp_path / "my runs/params.yaml"  # whose name a shell needs in quotes
    settings.parent.mkdir()
    assert command("config", "--write", str(settings), "scale=smoke").returncode == 0
    failed = run(tmp_path)
    assert failed.returncode != 0
    assert "figure has stopped: Full. (logs/figure1)" in failed.stderr
    assert "Exception" not in failed.stderr and "Traceback" not in failed.stdout + failed.stderr
    assert "1 of 2 jobs done" in failed.stderr and "Finished jobid" not in failed.stderr
    assert "words of a command" in failed.stdout and "Finished jobid" in failed.stdout
    done = run(tmp_path, OK="1")  # the same command goes on
    assert done.returncode == 0 and "words of a command" not in done.stdout
    assert "1 of 1 jobs done, nothing left" in done.stderr
    again = run(tmp_path)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr
