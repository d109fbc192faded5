"""Differences at equal work, on planted results: each network's own cost decides its moment."""

import json
import statistics
from dataclasses import replace

import pytest
import scipy.stats
import torch

from d2it.config import paths
from d2it.config.recipe import repeats_of
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import write_json
from d2it.models.content_transformer import ContentTransformer
from d2it.report.claims import Pair, load_claims
from d2it.report.claims_page import render
from d2it.report.compute import DENSE, FINE, FORMAT, LIVE, VERSION, live_windows, measured_for
from d2it.report.effects import effect
from tests.planted import CLAIMS, CLEAR, PAIR, of, plant, say, sections
from tests.planted import config as config  # the fixtures
from tests.planted import elsewhere as elsewhere
from tools.live_windows import live


def costs(config, experiment: str, dense: float, fine: float | None = None) -> None:
    say(config, experiment, gmacs={"dense": dense, "sparse": fine or dense})


def worked(config, reading: str = DENSE):
    return effect(PAIR, CLAIMS, config).worked[reading]


def test_at_equal_work_the_dearer_is_taken_when_it_had_done_what_the_other_did(config):
    of(config, *CLEAR)
    plant(config, "d2it_l", [110.0, 112.0, 109.0], "middle")  # .5
    plant(config, "d2it_l", [98.0, 100.0, 97.0], "late")  # .75
    costs(config, "dit_l", 2.0)
    costs(config, "d2it_l", 2.0)
    assert worked(config) == "equal"
    costs(config, "d2it_l", 3.2)  # at .625 of its training it has done as much
    mean, low, high, seeds = worked(config)
    first = [104.0, 106.0, 103.0]
    others = statistics.fmean(CLEAR[1])
    assert mean == pytest.approx(100 * (statistics.fmean(first) - others) / others)
    wanted = scipy.stats.ttest_rel(first, CLEAR[1]).confidence_interval(0.95)
    assert (low, high) == pytest.approx((100 * wanted.low / others, 100 * wanted.high / others))
    page = sections(render(config, load_claims()))["What was run"]
    assert seeds == 3 and "at equal work, dense, %" in page and f"{mean:+.3g} [" in page
    costs(config, "d2it_l", 5.0)  # not measured so early
    assert worked(config) == "not measured"


def test_at_equal_work_the_dearer_may_be_the_second_and_a_seed_may_lack_its_moment(config):
    of(config, *CLEAR)
    plant(config, "dit_l", [120.0, 121.0, 122.0], "middle")
    costs(config, "d2it_l", 2.0)
    costs(config, "dit_l", 4.0)
    assert worked(config).mean == pytest.approx(100 * (90 + 92 + 89) / 363 - 100)
    last = paths.evaluation(config, repeats_of(config, "dit_l")[2])
    found = json.loads(last.read_text())
    del found["evaluations"]["middle"]
    last.write_text(json.dumps(found))
    left = worked(config)
    assert left.seeds == 2 and left.mean == pytest.approx(100 * (90 + 92) / 241 - 100)
    assert "] (2 seeds)" in sections(render(config, load_claims()))["What was run"]


def test_a_moment_that_a_claim_names_is_not_moved_by_work(config):
    of(config, *CLEAR)
    assert effect(replace(PAIR, share=1.0), CLAIMS, config).worked == {}
    assert effect(PAIR, CLAIMS, config).worked


def test_fewer_windows_leave_more_of_the_training(config):
    """At the network's true costs: the fine tokens alone are the least, live windows between."""
    of(config, *CLEAR)
    plant(config, "d2it_l", [120.0, 122.0, 119.0], "middle")
    plant(config, "d2it_l", [100.0, 102.0, 99.0], "late")
    assert LIVE not in effect(PAIR, CLAIMS, config).worked
    measured_windows(config, 0.75)
    left = [worked(config, reading).mean for reading in (DENSE, LIVE, FINE)]
    assert left[0] > left[1] > left[2]
    measured_windows(config, 1.0)
    assert worked(config, LIVE).mean == pytest.approx(left[0])
    measured_windows(config, 0.5)
    assert worked(config, LIVE).mean == pytest.approx(left[2])
    measured_windows(config, 0.5, ratio="0.7")  # of other maps
    assert LIVE not in effect(PAIR, CLAIMS, config).worked


def measured_windows(config, live: float, **other: str) -> None:
    entry = measured_for(run_of(config, "d2it_l")) | {"live": [live]} | other
    header = {"format": FORMAT, "version": VERSION}
    write_json(paths.windows(config), header | {"measured": [entry]})


@pytest.mark.parametrize("measured", [None, {}, [3], [{}], [{"live": "0.5"}]])
def test_shares_that_are_none_are_one_sentence(config, measured):
    said = {} if measured is None else {"measured": measured}
    write_json(paths.windows(config), {"format": FORMAT, "version": VERSION} | said)
    with pytest.raises(UserError, match=r"windows.json is damaged.*tools\.live_windows"):
        live_windows(config, run_of(config, "d2it_l"))


def test_a_network_without_fine_regions_is_called_ten_layers_deep(config):
    pair = Pair("d2it_b", "d2it_b_r0")
    of(config, *CLEAR, pair)
    said = effect(pair, CLAIMS, config).worked
    assert said[DENSE] == "equal" and said[FINE] != "equal"
    assert "ten layers deep" in render(config, CLAIMS)
    for run in repeats_of(config, "d2it_b_r0"):
        paths.evaluation(config, run).unlink()
    assert "ten layers deep" not in render(config, CLAIMS)


@pytest.mark.parametrize(("grains", "window"), [(2, 2), (2, 4), (2, 1), (3, 4), (3, 8)])
def test_live_windows_are_those_that_the_network_computes(grains, window):
    network = ContentTransformer(32, 4, grains, 16, 2, (1, 1), window, 0)
    drawn = torch.Generator().manual_seed(0)
    regions = 32 // network.patch
    map = torch.randint(0, grains, (8, regions, regions), generator=drawn)
    map *= torch.rand(map.shape, generator=drawn) > 0.9
    for grain, windows in enumerate(network.live_windows(map, torch.device("cpu")), start=1):
        share = len(windows.live) / (8 * (32 >> (grains - 1 - grain)) ** 2 / window**2)
        assert 0 < share < 1
        assert live(map, window, grain).double().mean().item() == pytest.approx(share)
