"""Beside every evaluation stands who made it; the same bytes keep their first maker."""

import json
import os
import subprocess
import sys

import pytest

from d2it.config import load, paths
from d2it.config.run import run_of
from d2it.files import file_digest, write_json
from d2it.runs import provenance
from tests.fake_results import write_evaluation


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(overrides=["scale=smoke"])
    write_evaluation(config, "dit_b")
    return config


def trained(config, run: str, rates: list[float]) -> None:
    """A run folder of two starts and a line every 16 images."""
    folder = run_of(config, run).folder
    start = {"commit": "a", "device": "cpu", "processes": 2}
    write_json(
        folder / "provenance.json",
        {"starts": [start, start | {"device": "H200", "processor": "x, AVX2"}]},
    )
    lines = [{"images": 16 * (i + 1), "images_per_second": rate} for i, rate in enumerate(rates)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_evaluation_says_its_commit_and_its_trainings_seconds(config):
    trained(config, "dit_b", [8.0, 16.0, 4.0])
    provenance.record(run_of(config, "dit_b"))
    said = provenance.of_run(run_of(config, "dit_b"))
    assert said["evaluation_sha256"] == file_digest(paths.evaluation(config, "dit_b"))
    assert len(said["commit"]) == 40 and said["changed"] in (True, False)
    assert said["training"] == {
        "commits": ["a"],
        "devices": ["cpu", "H200"],
        "processes": [2],
        "processors": ["x, AVX2"],  # the first start is older than this
        "seconds": 16 / 8 + 16 / 16 + 16 / 4,
    }


def test_a_rate_that_damage_made_nothing_leaves_the_training_out(config):
    trained(config, "dit_b", [8.0, 0.0])
    assert provenance.training(run_of(config, "dit_b")) is None


@pytest.mark.parametrize("text", ["[" * 10**5, '{"starts": [3]}', '{"images": "x"}', "[7]"])
@pytest.mark.parametrize("name", ["provenance.json", "metrics.jsonl"])
def test_a_damaged_record_leaves_the_training_out(config, name, text):
    trained(config, "dit_b", [8.0])
    with open(run_of(config, "dit_b").folder / name, "a") as file:
        file.write(text + "\n")
    assert provenance.training(run_of(config, "dit_b")) is None


def test_what_git_says_is_read_in_any_locale(tmp_path):
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nprintf 'M\\303\\274\\351'")  # an umlaut, and half of one
    git.chmod(0o755)
    code = "from d2it.runs import provenance; assert provenance.changed()"
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | locale
    subprocess.run([sys.executable, "-c", code], env=told, check=True)


def test_the_same_bytes_keep_who_made_them_first_and_others_do_not(config, monkeypatch):
    provenance.record(run_of(config, "dit_b"))
    first = provenance.of_run(run_of(config, "dit_b"))
    assert first["training"] is None  # its run folder is not here
    monkeypatch.setattr(provenance, "commit", lambda: "b" * 40)
    provenance.record(run_of(config, "dit_b"))
    assert provenance.of_run(run_of(config, "dit_b")) == first
    write_evaluation(config, "dit_b", fid=1.0)
    provenance.record(run_of(config, "dit_b"))
    assert provenance.of_run(run_of(config, "dit_b"))["commit"] == "b" * 40


def test_it_changes_no_byte_of_the_evaluation(config):
    before = paths.evaluation(config, "dit_b").read_bytes()
    provenance.record(run_of(config, "dit_b"))
    assert paths.evaluation(config, "dit_b").read_bytes() == before
