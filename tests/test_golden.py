"""The first losses of every training stage are the recorded ones; a wrong formula's are not."""

import json
from collections.abc import Callable

import pytest
import torch

import d2it.training.dvae as first_stage
import d2it.training.transformers as second_stage
from d2it.config import Config
from d2it.config.run import run_of
from d2it.models import blocks
from d2it.models.content_transformer import PositionBias
from d2it.training import dvae_loss as losses
from tests.golden import FILE, RUNS, STEPS, Losses, first_losses, golden_world
from tests.tiny_world import enter

# Of the mean loss. With and without AVX the losses differ by up to 4e-4 of it.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("golden"), patch)
        yield golden_world()


def departure(config: Config, run: str, found: Losses) -> float:
    """How far any loss is from the recorded one of that step, in mean losses."""
    recorded: Losses = json.loads(FILE.read_text())[run_of(config, run).kind]
    assert found.keys() <= recorded.keys()
    return max(
        abs(ours - theirs) * len(recorded[name]) / sum(map(abs, recorded[name]))
        for name, ours_all in found.items()
        for ours, theirs in zip(ours_all, recorded[name], strict=False)
    )


@pytest.mark.parametrize("run", RUNS)
def test_losses_are_the_recorded_ones(world, run):
    found = first_losses(world, run)
    assert {len(kept) for kept in found.values()} <= {STEPS, STEPS // 2}
    assert departure(world, run, found) < TOLERANCE


def no_shift(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x * (1 + scale[:, None])


def no_bias(self: PositionBias, places: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(self.matrix[None])


def equal_weights(map: torch.Tensor, k: int) -> torch.Tensor:
    return torch.ones((), device=map.device)


def every_code(map: torch.Tensor, k: int) -> list[torch.Tensor]:
    return [torch.ones((), dtype=torch.bool)] * k


MISTAKES: list[tuple[str, object, str, Callable]] = [
    ("d2it_xl_classes", second_stage, "cell_weights", equal_weights),  # no alpha_i of Eq 11
    ("d2it_xl_classes", PositionBias, "learned", no_bias),  # no B_r of Eq 10
    ("d2it_xl_classes", blocks, "modulate", no_shift),
    ("dit_xl_classes", blocks, "modulate", no_shift),
    ("grain_classes", blocks, "modulate", no_shift),
    ("dvae", first_stage, "kl_per_value", lambda moments, map, pixels: torch.zeros(())),
    ("dvae", losses, "in_use", every_code),  # KL of codes that the map does not use
]


@pytest.mark.parametrize(("run", "owner", "name", "wrong"), MISTAKES)
def test_a_wrong_formula_is_noticed_in_two_steps(world, monkeypatch, run, owner, name, wrong):
    monkeypatch.setattr(owner, name, wrong)
    assert departure(world, run, first_losses(world, run, steps=2)) > 5 * TOLERANCE
