"""What is committed is of the settings that are there: every digest is today's."""

import json
from pathlib import Path

import pytest

import d2it
from d2it.config import load
from d2it.config.run import runs_of

ROOT = Path(__file__).parents[1]
PACKAGE = Path(d2it.__file__).parent
STUDIES = sorted(path.parent.name for path in ROOT.glob("results/mini_cpu*/evaluations"))


@pytest.mark.parametrize("scale", STUDIES)
def test_committed_evaluations_are_of_the_scales_runs(scale: str) -> None:
    runs = runs_of(load(overrides=[f"scale={scale}"]))
    files = sorted((ROOT / "results" / scale / "evaluations").glob("*.json"))
    told = {file.stem: json.loads(file.read_text())["recipe_digest"] for file in files}
    assert told and told == {name: runs[name].digest for name in told}


def test_packaged_weights_are_of_their_scales_runs() -> None:
    headers = sorted(PACKAGE.glob("weights/*/pipeline.json"))
    assert headers
    for header in headers:
        told = json.loads(header.read_text())
        runs = runs_of(load(overrides=[f"scale={told['scale']}"]))
        for network in told["networks"].values():
            assert network["recipe_digest"] == runs[network["run"]].digest
