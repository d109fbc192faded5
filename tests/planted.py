"""Results in which an effect was planted, for the tests of claims."""

import json
from typing import Any

import pytest

from d2it.config import load, paths
from d2it.config.recipe import repeats_of
from d2it.config.schema import Config
from d2it.files import write_json
from d2it.report.claims import Pair, load_claims
from d2it.report.effects import Effect, effect
from tests.fake_results import write_evaluation

CLAIMS = load_claims()
PAIR = Pair("d2it_l", "dit_l", published=[4.47, 6.26])
CLEAR = ([90.0, 92.0, 89.0], [100.0, 103.0, 101.0])
NOTHING = ([100.0, 103.0, 99.0], [101.0, 102.0, 99.5])


@pytest.fixture(scope="module")
def config():
    return load(overrides=["scale=mini"])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plant(
    config: Config, experiment: str, values: list[float], label: str = "main", metric: str = "fid"
) -> None:
    """Evaluations of an experiment's first seeds, with these numbers."""
    for run, value in zip(repeats_of(config, experiment), values, strict=False):
        path = paths.evaluation(config, run)
        if not path.exists():
            write_evaluation(config, run)
        found = json.loads(path.read_text())
        found["evaluations"][label]["metrics"][metric] = value
        path.write_text(json.dumps(found))


def of(config: Config, ours: list[float], others: list[float], pair: Pair = PAIR) -> Effect:
    plant(config, pair.run, ours, pair.label)
    plant(config, pair.than, others, pair.than_label)
    return effect(pair, CLAIMS, config)


def say(config: Config, experiment: str, **header: Any) -> None:
    """The same words in the evaluation of every seed."""
    for run in repeats_of(config, experiment):
        path = paths.evaluation(config, run)
        write_json(path, json.loads(path.read_text()) | header)


def sections(text: str) -> dict[str, str]:
    """The page, by its headings."""
    return dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
