"""Figures 3-7 as PNG and SVG, the same bytes every time.

Filled marks are ours, hollow ones published; what a scale does not have is said below the figure.
"""

import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from d2it.config import paths
from d2it.config.documents import conform
from d2it.config.published import published
from d2it.config.ratios import is_constant, shares
from d2it.config.recipe import ratio_key
from d2it.config.run import run_of
from d2it.config.schema import Config
from d2it.config.study import (
    Compute,
    Curves,
    Ratios,
    Samples,
    Study,
    at_scale,
    data_of,
    heading,
    item_of,
    place,
)
from d2it.errors import SETTINGS, UserError
from d2it.files import File, atomic_path, damaged, file_digest, read_format, read_json
from d2it.grains.overlay import colours, overlay
from d2it.images.decode import open_image
from d2it.images.emoji import emoji_groups
from d2it.images.packed import read_manifest
from d2it.report.drawing import BLUE, COLOURS, GREY, HOLLOW, MARKS, VERMILION, absent, short
from d2it.report.figure_compute import draw_compute
from d2it.report.results import (
    PUBLISHED_RATIO,
    Gap,
    Result,
    made_with,
    of_several,
    result,
    scale_line,
)
from d2it.sources.table import read_sources

ACROSS = 8  # pictures in a row
FACTOR = 3.0  # published numbers further from ours than this get an axis of their own
STYLE: Any = {"svg.hashsalt": "d2it", "font.family": "DejaVu Sans", "axes.titlesize": 10}
METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}


def write_figure(study: Study, name: str, config: Config) -> list[Path]:
    """results/<scale>/figures/<name>.{png,svg}."""
    item = item_of(study, name)
    written = []
    with matplotlib.rc_context(), sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        matplotlib.rcParams.update(STYLE)
        if isinstance(item, Samples):
            figure, remarks = draw_samples(item, config)
        elif isinstance(item, Ratios):
            figure, remarks = draw_ratios(item, config)
        elif isinstance(item, Compute):
            figure, remarks = draw_compute(item, config)
        else:
            assert isinstance(item, Curves)
            figure, remarks = draw_curves(item, config)
        title = f"{heading(name)} ({place(item)}). {item.title}."
        if item.published:
            remarks.append(f"Hollow marks, published: {item.published}.")
        first = scale_line(config, "all_figures", data_of(study, name, config)).replace("`", "")
        add_caption(figure, [title, first, *remarks])
        for suffix, metadata in METADATA.items():
            written.append(paths.figures(config) / f"{name}.{suffix}")
            with atomic_path(written[-1]) as path:
                figure.savefig(path, format=suffix, dpi=150, bbox_inches="tight", metadata=metadata)
    return written


def add_caption(figure: Figure, sentences: list[str]) -> None:
    """Text below the drawing, wrapped to its width."""
    width = int(figure.get_figwidth() * 17)  # characters of 8 points in an inch
    lines = [line for text in sentences for line in textwrap.wrap(text, width)]
    figure.text(0.01, -0.02, "\n".join(lines), va="top", fontsize=8, color=GREY)


# Figures 3 and 4: pictures and their grain maps


class Header(TypedDict):
    """What is read of a gallery's manifest.json."""

    classes: dict[str, list[int]]
    files: dict[str, File]


Maps = dict[str, list[list[list[int]]]]  # maps.json, by label


@dataclass(frozen=True)
class Gallery:
    pictures: list[np.ndarray]  # (h, w, 3) uint8 each
    maps: np.ndarray  # (n, rows, columns), 0 is coarsest
    classes: list[int]


def read_gallery(item: Samples, config: Config) -> Gallery:
    """The pictures of one label in a run's gallery."""
    folder = paths.gallery(config, item.run)
    made_by = f"d2it evaluate {item.run}"
    manifest, table = folder / "manifest.json", folder / "maps.json"
    header = read_format(manifest, "d2it-gallery", 1, made_by=made_by)
    conform(Header, header, manifest, made_by)
    for name, entry in header["files"].items():
        if (folder / name).is_file() and file_digest(folder / name) != entry["sha256"]:
            raise damaged(folder / name, made_by)
    every = conform(Maps, read_json(table, made_by=made_by), table, made_by)
    maps, classes = every.get(item.gallery, []), header["classes"].get(item.gallery, [])
    files = [folder / f"{item.gallery}-{i}.png" for i in range(len(maps))]
    if not files or len(files) != len(classes) or not all(file.is_file() for file in files):
        raise UserError(
            f"{folder} lacks {item.gallery} samples: make it again with `{made_by}{SETTINGS}`."
        )
    pictures = [np.asarray(open_image(file).convert("RGB")) for file in files]
    return Gallery(pictures, np.asarray(maps), classes)


def draw_samples(item: Samples, config: Config) -> tuple[Figure, list[str]]:
    """Rows of eight pictures, each above its overlay; a map that all share stands first."""
    if not at_scale(config, item.run):
        return draw_words("not at this scale"), absent([item.run], config)
    run = run_of(config, item.run)
    if item.gallery == "one_map" and is_constant(run.ratio):
        why = f"Every map of {item.run} is the same at r = {ratio_key(run.ratio)}."
        return draw_words("not with constant maps"), [why]
    shown = read_gallery(item, config)
    names = class_names(config, run.data) if run.spec.conditional else []
    grains = len(run.factors)
    shared = len(shown.maps) > 1 and bool((shown.maps == shown.maps[0]).all())
    lead = int(shared)
    rows = 2 * -(-len(shown.pictures) // ACROSS)
    figure = Figure(figsize=(ACROSS + lead, rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, ACROSS + lead, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for i, (picture, map) in enumerate(zip(shown.pictures, shown.maps, strict=True)):
        upper, lower = grid[2 * (i // ACROSS) : 2 * (i // ACROSS) + 2, lead + i % ACROSS]
        upper.imshow(picture, interpolation="nearest")
        lower.imshow(overlay(picture, map, grains), interpolation="nearest")
        if run.spec.conditional:
            label = shown.classes[i]
            title = names[label] if label < len(names) else f"class {label}"
            upper.set_title(title, fontsize=7, pad=2)
    if shared:
        flat = colours(shown.maps[0], grains).round().astype(np.uint8)
        grid[0, 0].imshow(flat, interpolation="nearest")
        grid[0, 0].set_title("the one map")
    middle = ["middle region"] if grains == 3 else [f"grain {i}" for i in range(1, grains - 1)]
    names_of_grains = ["coarse region", *middle, "fine region"]
    palette = colours(np.arange(grains), grains).round() / 255
    keys = [
        Patch(color=one, label=name) for one, name in zip(palette, names_of_grains, strict=True)
    ]
    figure.legend(handles=keys[::-1], loc="outside upper center", ncols=grains, frameon=False)
    what = "upper rows are samples, lower rows the same with their grain maps"
    return figure, [f"Run {run.id}: {what}."]


def draw_words(text: str) -> Figure:
    """In place of pictures that there are none of."""
    figure = Figure(figsize=(8.0, 1.0))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def class_names(config: Config, data: str) -> list[str]:
    """What the classes of a data set are called, as far as that is known here.

    No input of the workflow's rule: images of other classes change all that the figure is made of.
    """
    folder = paths.images(config, data)
    if (folder / "manifest.json").exists():
        return list(read_manifest(folder)["classes"])
    group = config.data[data].source  # `photos`: one class for each photograph
    if group == "emoji":
        return emoji_groups()
    return [source.name for source in read_sources().values() if source.group == group]


# Figures 5 and 6: points and curves


def ratio_points(item: Ratios, config: Config) -> pd.DataFrame:
    """Our points, one for each ratio; the rFID is that of the run's own DVAE at the run's ratio.

    They stand at the share of the finest regions.
    """
    points = []
    for run in ratio_runs(item, config):
        content = run_of(config, run)
        at = content.main_ratio
        reconstruction = result(config, content.dvae.name, f"r{ratio_key(at)}")
        for metric, found in (("fid", result(config, run)), ("rfid", reconstruction)):
            points += _point(found, metric, metric=metric, ratio=shares(at)[-1])
    return pd.DataFrame(points, columns=["value", "spread", "run", "metric", "ratio"])


def ratio_runs(item: Ratios, config: Config) -> dict[str, list[str]]:
    """The first run of each ratio, and the others whose place it takes."""
    by_ratio: dict[str, list[str]] = {}
    for run in filter(partial(at_scale, config), item.runs):
        by_ratio.setdefault(ratio_key(config.runs.content[run].ratio), []).append(run)
    return {runs[0]: runs[1:] for runs in by_ratio.values()}


def doubled(item: Ratios, config: Config) -> list[str]:
    """Sentences on runs of one ratio, as `ratio=0.7` moves the main run to that of another."""
    lines = []
    runs = ratio_runs(item, config)
    shown = {ratio_key(config.runs.content[run].ratio) for run in runs}
    for run, others in runs.items():
        if others:
            at = ratio_key(config.runs.content[run].ratio)
            lines.append(f"At r = {at} {run} stands for {', '.join(others)} too.")
    if lines and ratio_key(PUBLISHED_RATIO) not in shown:
        lines.append(f"There is none of ours at r = {PUBLISHED_RATIO}.")
    return lines


def curve_points(item: Curves, config: Config) -> pd.DataFrame:
    """Our points, one for each evaluation along a run."""
    points = []
    for curve in item.curves:
        for label in item.labels:
            found = result(config, curve.run, label)
            images = found.recipe["images"] if isinstance(found, Result) else None
            points += _point(found, "fid", model=curve.model, size=curve.size, images=images)
    return pd.DataFrame(points, columns=["value", "spread", "run", "model", "size", "images"])


def _point(found: Result | Gap, name: str, **where: Any) -> list[dict[str, Any]]:
    """The point of the metric `name`, or none where there is a gap."""
    if isinstance(found, Gap) or name not in found.metrics:
        return []
    spread = found.spread.get(name) or 0.0
    return [{"value": found.metrics[name], "spread": spread, "run": found.run, **where}]


def draw_ratios(item: Ratios, config: Config) -> tuple[Figure, list[str]]:
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    points, printed = ratio_points(item, config), published("figure_5")
    panels = {"rfid": ("Reconstruction: rFID ↓", BLUE), "fid": ("Generation: FID ↓", VERMILION)}
    for axes, (metric, (title, colour)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        ours = points[points["metric"] == metric].sort_values("ratio")
        theirs = [(float(row["ratio"]), float(row[metric])) for row in printed if row[metric]]
        axes.set(title=title, xlabel="share of fine regions", ylabel="ours", xlim=(-0.05, 1.05))
        _curve(axes, ours, "ratio", color=colour, marker="o")
        _beside(axes, theirs, list(ours["value"]), colour)
    keys = [
        Line2D([], [], color=GREY, marker="o", label="ours"),
        Line2D([], [], color=GREY, ls="--", label="published", **HOLLOW),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False)
    how = made_with(result(config, run) for run in item.runs)
    return figure, [
        *absent(item.runs, config),
        *doubled(item, config),
        *how,
        *of_several(config, item.runs),
    ]


def _curve(axes: Axes, points: pd.DataFrame, x: str, **style: Any) -> None:
    """A line with a mark for each point and the spread over sampling seeds, if there is one."""
    if points.empty:
        return  # the caption says which runs are missing
    own: Any = {"estimator": None, "errorbar": None, "legend": False}  # points as they are
    sns.lineplot(points, x=x, y="value", markersize=6, mec="none", ax=axes, **own, **style)
    axes.errorbar(points[x], points["value"], points["spread"], fmt="none", ecolor=style["color"])


def _beside(axes: Axes, theirs: list[tuple[float, float]], ours: list[float], colour: str) -> None:
    """Published points, on an axis of their own at the right where they are far from ours."""
    values = [value for _, value in theirs]
    if not ours or max(ours) > FACTOR * max(values) or max(values) > FACTOR * max(ours):
        axes = axes.twinx()
        axes.grid(False)
        axes.set_ylabel("published")
    axes.plot(*zip(*theirs, strict=True), color=colour, ls="--", **HOLLOW)


def draw_curves(item: Curves, config: Config) -> tuple[Figure, list[str]]:
    """A panel for each size with DiT and D²iT in it, and one for the published ends."""
    points, printed = curve_points(item, config), published("figure_6")
    sizes = list(dict.fromkeys(curve.size for curve in item.curves))
    figure = Figure(figsize=(9.6, 3.0), layout="constrained")
    panels = figure.subplots(1, len(sizes) + 1)
    for axes, size in zip(panels, sizes, strict=False):
        axes.set(title=f"{size}, ours")
        axes.sharey(panels[0])
        for model in COLOURS:
            curve = points[(points["size"] == size) & (points["model"] == model)]
            _curve(axes, curve, "images", color=COLOURS[model], marker=MARKS[model])
        if size not in set(points["size"]):
            axes.text(0.5, 0.5, "none of ours", transform=axes.transAxes, ha="center", color=GREY)
    for row in printed:
        model = row["row"].partition("-")[0]
        images, style = 1e6 * float(row["million_images"]), HOLLOW | {"marker": MARKS[model]}
        panels[-1].plot(images, float(row["fid"]), color=COLOURS[model], **style)
    panels[-1].set(title="XL, published", xlim=(0, 2.2e9), ylim=(0, 12))
    for axes in panels:
        axes.set(xlabel="training images", ylabel="FID ↓" if axes in panels[[0, -1]] else "")
        axes.xaxis.set_major_locator(MaxNLocator(3) if axes.lines else NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: short(x))
    keys = [
        Line2D([], [], color=colour, marker=MARKS[model], label=model)
        for model, colour in COLOURS.items()
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False)
    runs = [curve.run for curve in item.curves]
    lines = absent(runs, config) + made_with(result(config, run) for run in runs)
    return figure, lines + of_several(config, runs)
