"""A run that stands published, e.g. pulled into a new clone, is not trained again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2it.config.schema import Training
from d2it.models.store import save_model
from d2it.runs.plan import Plan
from d2it.runs.publish import is_published


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    training = Training(images=64, batch=16, learning_rate=1e-3)
    recipe = {"stage": "tiny"}
    return Plan("tiny", "dit", tmp_path / "runs", training, 0, (32,), recipe, {}, {})


@pytest.fixture
def published(plan: Plan, tmp_path: Path) -> Path:
    weights = {stem: {"w": torch.ones(3)} for stem in ("model", "raw", "milestone-32")}
    save_model(tmp_path / "tiny", "dit", {}, plan.recipe, 64, 16, {}, weights)
    return tmp_path / "tiny"


def test_what_stands_is_seen_and_its_manifest_restored(plan, published):
    manifest = (published / "manifest.json").read_bytes()
    (published / "manifest.json").unlink()  # as Snakemake does before it runs the rule
    assert is_published(plan, published)
    assert (published / "manifest.json").read_bytes() == manifest


def test_anything_less_is_trained(plan, published, tmp_path):
    longer = replace(plan.training, images=128)
    assert not is_published(replace(plan, training=longer), published)
    assert not is_published(replace(plan, recipe={"stage": "other"}), published)
    assert not is_published(replace(plan, milestones=(16, 32)), published)
    assert not is_published(plan, tmp_path / "nowhere")
    with open(published / "raw.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00")
    assert not is_published(plan, published)
