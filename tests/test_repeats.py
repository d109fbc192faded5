"""Training seeds: repeats of an experiment differ in their seed alone, and methods are paired."""

from dataclasses import replace

import pytest
import torch

from d2it.clock import Order
from d2it.config import Config, paths
from d2it.config.check import check_meaning
from d2it.config.recipe import (
    KINDS,
    digest,
    repeats_of,
    training_seed,
)
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.runs.plan import make_plan
from d2it.training.batches import Batches
from d2it.training.tasks import make_task
from tests.composed import composed
from tests.test_transformers import TWO, write_latents


def repeated(config: Config, *runs: str) -> Config:
    """The configuration with two training seeds of these runs, `<run>` and `<run>_s1`."""
    tables = {}
    for kind in KINDS:
        table = getattr(config.runs, kind)
        tables[kind] = table | {f"{run}_s1": table[run] for run in runs if run in table}
    return replace(config, runs=replace(config.runs, **tables), repeats=dict.fromkeys(runs, 2))


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    """Two seeds of a DiT and a D²iT, in a working directory with the latents of their DVAE."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    config = repeated(composed("scale=demo"), "dit_b", "d2it_b")
    check_meaning(config)
    write_latents(paths.latents(config, "dvae"), digest(run_of(config, "dvae").latents_recipe), TWO)
    return config


def first_batch(config: Config, run: str) -> dict[str, torch.Tensor]:
    """What a run is shown in its first step, through the loop's own plan and feed."""
    plan, task = make_plan(run_of(config, run)), make_task(run_of(config, run))
    order = Order(plan.seed, task.size)
    feed = Batches(task, order, plan.seed, 8, 1, range(1), pin=False, noise=plan.noise)
    feed.start(0, 8)
    try:
        return feed.take()[0]
    finally:
        feed.close()


def test_both_methods_of_a_seed_see_the_same_images_times_and_noise(config):
    ours, theirs = first_batch(config, "d2it_b_s1"), first_batch(config, "dit_b_s1")
    assert ours.keys() == theirs.keys() and {"t", "noise", "mirrored", "label"} <= ours.keys()
    shared = ours.keys() - {"cuts"}  # of the maps: each has its own ratio
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)


def test_another_seed_sees_others_and_starts_from_other_weights(config):
    first, second = first_batch(config, "d2it_b"), first_batch(config, "d2it_b_s1")
    for name in ("t", "noise", "entropy"):
        assert not torch.equal(first[name], second[name]), name
    networks = [
        make_task(run_of(config, run)).learners[0].module for run in ("d2it_b", "d2it_b_s1")
    ]
    weights = [torch.cat([p.flatten() for p in n.parameters()]) for n in networks]
    assert not torch.equal(*weights)
    again = make_task(run_of(config, "d2it_b_s1")).learners[0].module
    assert all(map(torch.equal, networks[1].parameters(), again.parameters()))


def test_recipes_of_repeats_differ_in_the_seed_alone():
    config = repeated(composed("scale=demo"), "dit_b", "dvae")
    for run in ("dit_b", "dvae"):
        first, second = run_of(config, run).recipe, run_of(config, f"{run}_s1").recipe
        assert (
            first["settings"].pop("training_seed"),
            second["settings"].pop("training_seed"),
        ) == (0, 1)
        assert first == second
    assert training_seed(config, "d2it_b") is None


def test_fewer_seeds_leave_the_others_what_they_were():
    more, fewer, one = (composed("scale=mini", f"repeats.dit_b={n}") for n in (3, 2, 1))
    assert repeats_of(one, "dit_b") == ["dit_b"] and repeats_of(fewer, "dit_b")[-1] == "dit_b_s1"
    for config in (fewer, one):
        for run in repeats_of(config, "dit_b"):
            assert run_of(more, run).id == run_of(config, run).id
        assert config.runs.dit.keys() & set(repeats_of(more, "dit_b")) == set(
            repeats_of(config, "dit_b")
        )


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_runs_of_a_single_seed_are_as_they_were(scale):
    config = composed(f"scale={scale}")
    assert not config.repeats
    assert "training_seed" not in run_of(config, "d2it_b").recipe["settings"]


def test_the_mini_scale_repeats_what_the_claims_compare():
    config = composed("scale=mini")
    names = [run_of(config, run).id for name in config.repeats for run in repeats_of(config, name)]
    assert len(set(names)) == len(names) == 3 * len(config.repeats)
    assert {"dit_b", "d2it_b", "d2it_l", "dit_xl_classes", "dvae_r70"} <= config.repeats.keys()


@pytest.mark.parametrize(
    ("repeats", "sentence"),
    [
        ({"dit_b": 0}, "repeats.dit_b is 0, but must be at least 1"),
        ({"dit_b": 3}, "names the run 'dit_b_s2', which this scale does not have"),
        ({"ditb": 2}, "'ditb', which this scale does not have.*did you mean 'dit_b'"),
        ({"dit_b": 2, "dit_b_s1": 1}, "repeats what is itself a repeat"),
        ({"d2it_b": 2}, "settings of d2it_b_s1 differ from d2it_b's"),
    ],
)
def test_repeats_that_make_no_sense(repeats, sentence):
    config = repeated(composed("scale=demo"), "dit_b")
    others = {**config.runs.content, "d2it_b_s1": config.runs.content["d2it_b_routing"]}
    config = replace(config, runs=replace(config.runs, content=others))
    with pytest.raises(UserError, match=sentence):
        check_meaning(replace(config, repeats=repeats))
