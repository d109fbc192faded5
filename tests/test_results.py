"""What is committed: the demo complete and better than doing nothing, all of it consistent."""

import functools
import hashlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.common import RESULTS
from d2it.config import load
from d2it.config.study import load_study
from d2it.report.claims_page import write_claims
from d2it.report.metrics import write_metrics
from d2it.report.tables import write_table
from tools.results_in_docs import BEGIN, END, PAGE, claims

ROOT = Path(__file__).parents[1]
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\d)"


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


DEMO = "docs/demo"  # a copy: results/demo is of whoever makes it
SCALES = {"demo": DEMO} | {
    Path(place).name: place
    for place in git("ls-tree", "--name-only", "HEAD", "results/").stdout.split()
    if git("ls-tree", "HEAD", f"{place}/evaluations").stdout  # others keep models alone
}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and documents as committed, whatever a run of one's own has made of them since."""
    folder = tmp_path_factory.mktemp("committed")
    archive = subprocess.run(
        ["git", "archive", "HEAD", "results", "docs", "README.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@pytest.fixture(scope="module")
def demo(committed: Path) -> Path:
    return committed / DEMO


@pytest.fixture(scope="module")
def evaluations(demo: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in demo.glob("evaluations/*.json")}


def numbers(value) -> list[float]:
    """Every number in a tree of JSON."""
    if isinstance(value, dict):
        return [n for entry in value.values() for n in numbers(entry)]
    if isinstance(value, list):
        return [n for entry in value for n in numbers(entry)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_a_demo_of_ones_own_changes_no_tracked_file():
    assert not git("ls-files", "results/demo").stdout


def test_every_table_and_figure_is_there(demo):
    tables = {f"table_{n}.{kind}" for n in range(1, 7) for kind in ("csv", "md", "tex")}
    figures = {f"figure_{n}.{kind}" for n in range(3, 8) for kind in ("png", "svg")}
    assert {path.name for path in demo.glob("tables/*.*")} == tables
    assert {path.name for path in demo.glob("figures/*.*")} == figures


@pytest.mark.parametrize("n", range(1, 7))
def test_every_number_of_ours_is_found_in_an_evaluation(demo, evaluations, n):
    table = pd.read_csv(demo / f"tables/table_{n}.csv", comment="#")
    found = 0
    for _, row in table.dropna(subset=["run"]).iterrows():
        run = re.sub(r"-[0-9a-f]{8}$", "", row["run"])
        known = numbers(evaluations[run])
        for column in [c for c in map(str, table) if c.endswith("_ours") and not pd.isna(row[c])]:
            scale = 1e6 if column.startswith("parameters") else 1
            value = row[column] * scale
            assert any(math.isclose(value, number, rel_tol=1e-9) for number in known), column
            found += 1
    assert found


@pytest.mark.parametrize("scale", SCALES)
def test_tables_and_claims_are_made_again_to_the_byte(committed, scale, tmp_path, monkeypatch):
    """Of the committed evaluations and provenance alone: a study may be there in part."""
    theirs, mine = committed / SCALES[scale], tmp_path / "results" / scale
    for made in ("evaluations", "provenance"):
        shutil.copytree(theirs / made, mine / made)
    if (theirs / "windows.json").exists():
        shutil.copy(theirs / "windows.json", mine)
    monkeypatch.chdir(tmp_path)
    config, study = load(overrides=[f"scale={scale}"]), load_study()
    again = [
        *(path for t in theirs.glob("tables/*.csv") for path in write_table(study, t.stem, config)),
        *([write_claims(config)] if (theirs / "claims.md").exists() else []),
        *([write_metrics(config)] if (theirs / "metrics.json").exists() else []),
    ]
    assert again
    for path in again:
        there = theirs / path.relative_to(Path("results", scale))
        assert path.read_bytes() == there.read_bytes(), path


def test_dvc_compares_numbers_alone_and_few_of_them(demo, evaluations):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    compared = [path for stage in stages for path in stage.get("do", stage).get("metrics", [])]
    assert compared == [{"results/${name}/metrics.json": {"cache": False}}]
    metrics = json.loads((demo / "metrics.json").read_text())
    shown = [one for run in metrics.values() for one in run.values()]
    assert {type(number) for one in shown for number in one.values()} == {float}
    assert len(shown) < 60 and all(len(one) <= 4 for one in shown)
    assert metrics["dvae"]["r0.5"] == {
        "rfid": evaluations["dvae"]["evaluations"]["r0.5"]["metrics"]["rfid"]
    }


@pytest.mark.parametrize("scale", SCALES)
def test_every_table_says_what_it_is_worth(committed, scale):
    for path in (committed / SCALES[scale]).glob("tables/*"):
        first = path.read_text().splitlines()[0]
        assert f"Scale {scale};" in first and "scale=paper" in first


def test_noise_is_predicted_better_than_by_zero(evaluations):
    errors = [
        measured["metrics"]["epsilon_error"]
        for made in evaluations.values()
        if made["kind"] in ("content", "dit")
        for measured in made["evaluations"].values()
    ]
    assert len(errors) >= 20 and max(errors) < 1  # of unit noise, zero errs by 1


def test_reconstructions_beat_bicubic_at_equal_code_size_and_gain_with_the_ratio(
    evaluations,
):
    measured = evaluations["dvae"]["evaluations"]
    half = measured["r0.5"]["metrics"]
    assert half["psnr"] > half["baseline_psnr"]
    assert measured["r1"]["metrics"]["psnr"] > half["psnr"] > measured["r0"]["metrics"]["psnr"]


def test_the_table_of_claims_is_that_of_the_committed_runs(committed, monkeypatch):
    monkeypatch.chdir(committed)
    block = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert block.strip() == claims(), "python -m tools.results_in_docs claims"


def test_numbers_of_the_readmes_results_stand_in_the_pages_they_link_to(committed):
    section = (committed / "README.md").read_text().split("## Results")[1].split("\n## ")[0]
    lines = re.findall(r"^- .+", section, re.M)
    assert len(lines) == 5
    for line in lines:
        page = re.findall(r"\]\(([^)#]+)", line)[-1]
        theirs = set(re.findall(NUMBER, (committed / page).read_text()))
        ours = set(re.findall(NUMBER, line.replace("−", "-").split("([")[0]))
        assert ours and not ours - theirs, line


def unsound(evaluation: bytes, provenance: bytes | None) -> str | None:
    """Why a committed evaluation cannot be traced to a commit before this one; None: it can."""
    if provenance is None:
        return "has no provenance"
    said = json.loads(provenance)
    if said["evaluation_sha256"] != hashlib.sha256(evaluation).hexdigest():
        return "has the provenance of other bytes"
    if said["changed"] is not False:
        return "was made by code that differed from its commit"
    commits = [said["commit"], *(said.get("training") or {}).get("commits", [])]
    return None if all(map(is_before, commits)) else "was made by a commit that is not before"


@functools.cache
def past() -> set[str] | None:
    """The commits up to this one; None in a shallow clone, which has none to look in."""
    if git("rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        return None
    return set(git("rev-list", "HEAD").stdout.split())


def is_before(commit: str | None) -> bool:
    return past() is None or commit in (past() or ())


def test_committed_results_were_made_by_a_commit_before_this_one(committed):
    wrong = {}
    for place in SCALES.values():
        for path in (committed / place).glob("evaluations/*.json"):
            sidecar = committed / place / "provenance" / path.name
            said = sidecar.read_bytes() if sidecar.exists() else None
            wrong[place, path.name] = unsound(path.read_bytes(), said)
    assert wrong and not any(wrong.values()), {p: why for p, why in wrong.items() if why}


def test_committed_benchmarks_were_measured_by_a_commit_before_this_one():
    found = {path: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    assert len(found) >= 8
    wrong = [
        p.name for p, said in found.items() if said["changed"] or not is_before(said["commit"])
    ]
    assert not wrong


def test_what_would_be_refused_of_a_result():
    head, evaluation = git("rev-parse", "HEAD").stdout.strip(), b"{}"
    said = {"evaluation_sha256": hashlib.sha256(evaluation).hexdigest(), "changed": False}

    def verdict(**changes) -> str | None:
        told = json.dumps(said | {"commit": head} | changes).encode()
        return unsound(evaluation, told)

    assert verdict() is None
    assert "no provenance" in unsound(evaluation, None)
    assert "other bytes" in verdict(evaluation_sha256="0")
    assert "differed" in verdict(changed=True) and "differed" in verdict(changed=None)
    assert "not before" in verdict(commit="0" * 40) and "not before" in verdict(commit=None)
    assert verdict(training={"commits": [head]}) is None
    assert "not before" in verdict(training={"commits": [head, "0" * 40]})
