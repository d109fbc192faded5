"""GMACs behind an evaluation: of one pass of its network, of a sample, and of its training.

A D²iT has three readings: dense, where every window of a RefineNet is computed; live, the windows
that hold such a region, where their share was measured (`python -m tools.live_windows`); and fine,
the tokens of such regions alone. All others have the same by each.
"""

from typing import Any, TypedDict

from d2it.config import paths
from d2it.config.documents import conform
from d2it.config.recipe import ratio_key
from d2it.config.run import Run, run_of
from d2it.config.schema import Config
from d2it.cost.macs import cost, gmacs, live_gmacs
from d2it.files import read_format
from d2it.models.architecture import architecture
from d2it.report.results import Gap, Result

DENSE, LIVE, FINE = READINGS = ("dense", "live", "fine")
FORMAT, VERSION = "d2it-windows", 1
MADE_BY = "python -m tools.live_windows"
BACKWARD = 3  # passes forward that a step costs: the backward pass is two of them


class Share(TypedDict):
    """Of windows that are live, by RefineNet, beside what it depends on."""

    live: list[float]


class Windows(TypedDict):
    """windows.json."""

    measured: list[Share]


def pass_gmacs(config: Config, found: Result | Gap) -> dict[str, float]:
    """Of one pass of one image, by reading; nothing where it was not evaluated."""
    if isinstance(found, Gap) or "gmacs" not in found.header:
        return {}
    known = found.header["gmacs"]
    if "gmacs" in found.metrics:  # windows were skipped, as the maps that were drawn have it
        return {LIVE: found.metrics["gmacs"]}
    readings = {DENSE: known["dense"], FINE: known["sparse"]}
    if known["dense"] == known["sparse"]:
        return readings | {LIVE: known["dense"]}
    live = live_windows(config, run_of(config, found.header["run"]))
    return readings if live is None else readings | {LIVE: live}


def computed(costs: dict[str, float]) -> float:
    """Of these readings, what was computed: all windows, unless they were skipped."""
    return costs[DENSE] if DENSE in costs else costs[LIVE]


def live_windows(config: Config, run: Run) -> float | None:
    """GMACs of a pass that leaves windows without such a region out; None: not measured."""
    path, shape = paths.windows(config), architecture(run)
    if ratio_key(run.main_ratio) == "0":
        return cost("content", shape, run.main_ratio).macs / 1e9  # no region is fine
    if not path.exists():
        return None
    said = read_format(path, FORMAT, VERSION, made_by=MADE_BY)
    for entry in conform(Windows, said, path, MADE_BY)["measured"]:
        if measured_for(run).items() <= entry.items():
            return live_gmacs(shape, entry["live"])
    return None


def measured_for(run: Run) -> dict[str, Any]:
    """What the share of a content run's live windows depends on."""
    return {
        "data": run.data,
        "factors": run.factors,
        "window": run.config.model.window,
        "ratio": ratio_key(run.main_ratio),
    }


def sample_gmacs(config: Config, found: Result) -> dict[str, float]:
    """Of one sample: all passes of the sampler, two a step with guidance, and of drawing its map.
    The decoder's are not in it: all methods have the same.
    """
    run, how = run_of(config, found.header["run"]), found.recipe
    passes = how["steps"] * (2 if how.get("guidance", 1.0) != 1.0 else 1)
    map_ = 0.0
    if run.grain and how.get("maps") == "predicted":
        map_ = how["grain_steps"] * gmacs("grain", architecture(run.grain))["dense"]
    return {reading: passes * one + map_ for reading, one in pass_gmacs(config, found).items()}


def training_gmacs(config: Config, found: Result) -> dict[str, float]:
    """Of the network's training up to the evaluated moment; the grain network's, one for all sizes,
    is not in it.
    """
    seen, readings = found.recipe["images"], pass_gmacs(config, found)
    if "gmacs" in found.metrics:  # of random ratios, at whatever ratio it draws
        readings = {DENSE: found.header["gmacs"]["dense"]}
    return {reading: BACKWARD * seen * one for reading, one in readings.items()}
