"""FID over the GMACs of a sample and of training, of every network that a scale has.

Filled marks stand where the networks were computed, every window of RefineNet as a rule; a bar
leads to what is least possible, fine tokens alone, and a tick to the measured share of windows.
"""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from d2it.config.published import published
from d2it.config.recipe import repeats_of
from d2it.config.run import Run, runs_of
from d2it.config.schema import Config
from d2it.config.study import Compute
from d2it.cost.macs import gmacs
from d2it.cost.named_models import named_models
from d2it.report.compute import (
    BACKWARD,
    DENSE,
    FINE,
    LIVE,
    computed,
    sample_gmacs,
    training_gmacs,
)
from d2it.report.drawing import COLOURS, GREY, HOLLOW, MARKS, absent
from d2it.report.results import Result, made_with, result

TASKS = ("unconditional", "class-conditional")
GIGA = 1e9
PUBLISHED_STEPS = 250  # DiT's own sampler; the paper does not state its own
WORDS = [
    "Lines join sizes above, the moments of one training below; small marks are other designs of "
    "size B, one network at several ratios dashed. MACs: G is 10⁹, T 10¹², P 10¹⁵, E 10¹⁸, Z 10²¹. "
    "A sample is all passes of its sampler, for D²iT with those that draw its map; published ones "
    "at 250 steps. Training is three passes an image; the grain network's, one for all sizes, is "
    "not in it.",
    "Error bars: standard deviation over training seeds, of one seed over sampling seeds.",
]
NARROW = 6.0  # a range of less is shown on a linear axis
VARIES = ("at", "ratio")  # what two evaluations of one curve may differ in


@dataclass(frozen=True)
class Point:
    run: str
    model: str
    task: str
    label: str
    at: float  # share of the training
    fid: float  # mean over training seeds
    spread: float  # standard deviation over them, or over sampling seeds
    sample: dict[str, float]  # GMACs by reading
    training: dict[str, float]


def draw_compute(item: Compute, config: Config) -> tuple[Figure, list[str]]:
    """A column for each task and for published numbers, a row for sampling and for training."""
    points = compute_points(config)
    figure = Figure(figsize=(10.4, 6.4), layout="constrained")
    panels = figure.subplots(2, 3)
    joined = {run for line in item.lines for run in line.runs}
    for column, task in enumerate(TASKS):
        here = [one for one in points if one.task == task]
        _samples(panels[0, column], here, item)
        _trainings(panels[1, column], [one for one in here if one.run in joined])
        for axes in panels[:, column] if not here else ():
            axes.text(0.5, 0.5, "none of ours", transform=axes.transAxes, ha="center", color=GREY)
    _published(list(panels[:, 2]))
    titles = [f"{task}, ours" for task in TASKS] + ["published, at counted MACs"]
    for row, what in zip(panels, ("a sample", "training"), strict=True):
        for axes, title in zip(row, titles, strict=True):
            axes.set(title=title if what == "a sample" else "", xlabel=f"MACs of {what}")
            axes.set_ylabel("FID ↓" if axes is row[0] else "")
            _readable(axes)
    keys = [
        Line2D([], [], color=colour, marker=MARKS[model], label=model)
        for model, colour in COLOURS.items()
    ]
    bar = "tokens of fine regions alone – live windows – all windows"
    keys.append(Line2D([], [], color=GREY, marker="|", ms=9, label=bar))
    figure.legend(handles=keys, loc="outside upper center", ncols=3, frameon=False)
    runs = item.runs(config)
    return figure, [
        *WORDS,
        *absent(runs, config),
        *made_with(result(config, run) for run in runs),
    ]


def compute_points(config: Config) -> list[Point]:
    """Of every network that draws: its plain evaluations, each over all of its training seeds."""
    points = []
    for run in runs_of(config).values():
        if run.kind in ("content", "dit") and not run.repeat:
            points += [one for label in _plain(run) if (one := _point(config, run, label))]
    return points


def _plain(run: Run) -> list[str]:
    """Evaluations that differ from the main one in their moment or ratio alone."""
    alike = {
        label: {key: value for key, value in asdict(one).items() if key not in VARIES}
        for label, one in run.evaluations.items()
    }
    return [label for label, settings in alike.items() if settings == alike.get("main")]


def _point(config: Config, run: Run, label: str) -> Point | None:
    found = [result(config, one, label) for one in repeats_of(config, run.name)]
    seeds = [one for one in found if isinstance(one, Result) and "fid" in one.metrics]
    if not seeds:
        return None
    values = [one.metrics["fid"] for one in seeds]
    spread = statistics.stdev(values) if len(values) > 1 else seeds[0].spread.get("fid")
    return Point(
        run.name,
        "DiT" if run.kind == "dit" else "D²iT",
        TASKS[run.spec.conditional],
        label,
        run.evaluations[label].at,
        statistics.fmean(values),
        spread or 0.0,
        sample_gmacs(config, seeds[0]),
        training_gmacs(config, seeds[0]),
    )


def _samples(axes: Axes, points: list[Point], item: Compute) -> None:
    """Each network after its whole training; sizes of one model are joined."""
    ends = [one for one in points if one.at == 1.0]
    main = {one.run: one for one in ends if one.label == "main"}
    for line in item.lines:
        sizes = [main[run] for run in line.runs if run in main]
        _curve(axes, line.model, sizes, [one.sample for one in sizes])
        for point in sizes:
            _size(axes, point, point.sample)
    joined = {run for line in item.lines for run in line.runs}
    others = sorted((one for one in ends if one.run not in joined), key=lambda one: one.fid)
    for point in others:
        axes.plot(_macs(point.sample), point.fid, ".", color=COLOURS[point.model], alpha=0.7)
        _bars(axes, point, point.sample, 0.35)
    for run in dict.fromkeys(one.run for one in others):  # one network at several ratios
        same = sorted((p for p in others if p.run == run), key=lambda p: _macs(p.sample))
        axes.plot(
            [_macs(p.sample) for p in same],
            [p.fid for p in same],
            "--",
            lw=0.9,
            color=COLOURS[same[0].model],
        )
    lowest, high = axes.get_ylim()
    apart = 0.035 * (high - lowest)
    for point in others:  # words keep their distance
        lowest = max(point.fid, lowest + apart)
        bar = FINE in point.sample and point.sample[FINE] < point.sample[DENSE]  # at the left
        curve = sum(one.run == point.run for one in others) > 1
        beside, side = ((5, -2), "left") if bar or curve else ((-5, -2), "right")
        _write(axes, _design(point), (_macs(point.sample), lowest), beside, 6, GREY, ha=side)


def _trainings(axes: Axes, points: list[Point]) -> None:
    """The moments of each training, joined."""
    for run in dict.fromkeys(one.run for one in points):
        curve = sorted((p for p in points if p.run == run), key=lambda p: p.at)
        _curve(axes, curve[0].model, curve, [one.training for one in curve])
        _size(axes, curve[-1], curve[-1].training)


def _curve(axes: Axes, model: str, points: list[Point], costs: list[dict[str, float]]) -> None:
    along, fids = [_macs(one) for one in costs], [one.fid for one in points]
    axes.plot(along, fids, color=COLOURS[model], marker=MARKS[model], markersize=6.0)
    for point, cost in zip(points, costs, strict=True):
        _bars(axes, point, cost)


def _bars(axes: Axes, point: Point, costs: dict[str, float], alpha: float = 0.8) -> None:
    """The spread over seeds, and from fine tokens alone to all windows."""
    at, colour = _macs(costs), COLOURS[point.model]
    axes.errorbar(at, point.fid, point.spread, fmt="none", lw=1, ecolor=colour, alpha=alpha)
    _readings(axes, point.fid, costs, colour, alpha)


def _readings(
    axes: Axes, fid: float, costs: dict[str, float], colour: str, alpha: float = 0.8
) -> None:
    if FINE in costs and costs[FINE] < costs[DENSE]:
        ticks = [GIGA * costs[one] for one in (FINE, LIVE, DENSE) if one in costs]
        axes.plot(ticks, [fid] * len(ticks), "-", lw=0.9, color=colour, alpha=alpha)
        ticks = ticks[:-1]  # the last is the mark
        axes.plot(ticks, [fid] * len(ticks), "|", ms=7, color=colour, alpha=alpha)


def _published(panels: list[Axes]) -> None:
    """The paper's FIDs at MACs that are counted: it prints none of D²iT's."""
    models = named_models()
    drawing = PUBLISHED_STEPS * gmacs(*models["Dynamic Grain Transformer"])["dense"]
    for row in published("figure_7"):
        model, fid = row["model"], float(row["fid"])
        known = gmacs(*models[f"{model}-{row['size']}"])
        images = 1e6 * float(row["million_images"])
        one_pass = {DENSE: known["dense"], FINE: known["sparse"]}
        map = drawing if model == "D²iT" else 0.0
        sample = {kind: PUBLISHED_STEPS * one + map for kind, one in one_pass.items()}
        training = {kind: BACKWARD * images * one for kind, one in one_pass.items()}
        for axes, costs in zip(panels, (sample, training), strict=True):
            hollow = HOLLOW | {"marker": MARKS[model]}
            axes.plot(_macs(costs), fid, ls="", color=COLOURS[model], **hollow)
            _readings(axes, fid, costs, COLOURS[model])
            _write(axes, row["size"], (_macs(costs), fid), (8, 4), 8, COLOURS[model])


def _readable(axes: Axes) -> None:
    """Ticks as 200 M or 5 T; logarithmic where numbers differ by much."""
    nothing = np.empty((2, 0))
    points = np.hstack([nothing, *(np.asarray(one.get_xydata(), float).T for one in axes.lines)])
    ways = (axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)
    for (axis, scale), known in zip(ways, points, strict=True):
        range = max(known) / min(known) if len(known) else 1.0
        if range > NARROW:
            scale("log")
            subs = (1.0,) if range > NARROW**2 else (1.0, 2.0, 5.0)
            axis.set_major_locator(LogLocator(subs=subs))
            axis.set_minor_locator(NullLocator())
        else:
            axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(EngFormatter(sep=" "))
    axes.margins(x=0.12, y=0.12)


def _macs(costs: dict[str, float]) -> float:
    return GIGA * computed(costs)


def _size(axes: Axes, point: Point, costs: dict[str, float]) -> None:
    words = point.run.split("_")[1].upper()
    _write(axes, words, (_macs(costs), point.fid), (5, 5), 8, COLOURS[point.model])


def _write(
    axes: Axes,
    words: str,
    at: tuple[float, float],
    beside: tuple[float, float],
    size: float,
    colour: str,
    ha: str = "left",
) -> None:
    offset: Any = {"textcoords": "offset points", "ha": ha}
    axes.annotate(words, at, beside, fontsize=size, color=colour, **offset)


def _design(point: Point) -> str:
    """What sets a run apart, 12_2 of d2it_b_12_2, or a point of its curve."""
    return point.run.removeprefix("d2it_b_") if point.label == "main" else point.label
