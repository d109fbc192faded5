"""Tables 1-6: ours beside the published numbers, as CSV (in full), Markdown and LaTeX (to read).

Each row of data/published/<table>.csv becomes a line for every row of the study that stands beside
it, or one marked as published only. A line without a number of ours says why. Rows that the paper
does not have come last.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from d2it.config import paths
from d2it.config.published import published
from d2it.config.recipe import ratio_key
from d2it.config.schema import Config
from d2it.config.study import Row, Study, Table, data_of, heading, item_of, place
from d2it.files import write_text
from d2it.report.compute import computed, sample_gmacs
from d2it.report.results import (
    PUBLISHED_RATIO,
    Gap,
    Result,
    made_with,
    of_several,
    result,
    scale_line,
)
from d2it.text import latex, markdown

METRICS = {
    "fid": "FID ↓",
    "inception_score": "IS ↑",
    "precision": "Precision ↑",
    "recall": "Recall ↑",
}
RESIZING = {"adm": "with TensorFlow's resizing", "clean": "with clean-fid's resizing"}
COSTS = {"parameters": "Params (M)", "gmacs_dense": "GMACs", "gmacs_sparse": "GMACs, fine only"}
SAMPLE = "sample_gmacs"  # beside every FID of ours
COST = (
    "GMACs a sample: all passes of the sampler, two a step with guidance, and those that draw a "
    "D²iT's map; with every window of its RefineNet, though drawing skips those without a fine "
    "region (Figure 7 has both)."
)
WINDOWS = "One network for every ratio: with the windows that its maps made it compute."
ABSENT = "–"
PUBLISHED_ONLY = "published only"
BEYOND = "ours only"


def table(study: Study, name: str, config: Config) -> pd.DataFrame:
    """Every line of a table; columns `<metric>_ours`, `_spread`, `_published`, `_difference`, …"""
    item = item_of(study, name)
    assert isinstance(item, Table)
    lines: list[dict[str, Any]] = []
    every = published(name) if item.published else []
    for printed in every:
        rows: list[Row | None] = [row for row in item.rows if row.row == printed["row"]]
        lines += [_line(item, printed, row, config) for row in rows or [None]]
    columns = every[0] if every else ["row", *item.metrics]
    for row in item.all_rows(config)[len(item.rows) if every else 0 :]:
        unprinted = dict.fromkeys(columns, "") | {"row": row.row}
        lines.append(_line(item, unprinted, row, config, [BEYOND] if every else []))
    frame = pd.DataFrame(lines).astype({"n": "Int64"})
    frame.attrs["published"] = bool(item.published)
    return frame


def _line(
    item: Table,
    printed: dict[str, str],
    row: Row | None,
    config: Config,
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """One line: descriptors, costs, four numbers for each metric, and where ours come from."""
    found = result(config, row.run, row.label) if row else Gap(PUBLISHED_ONLY)
    ours = found if isinstance(found, Result) else None
    line: dict[str, Any] = {
        column: printed[column]
        for column in printed
        if column not in ("row", "parameters", *item.metrics)
    }
    line["row"] = (row.name if row else None) or printed["row"]
    line |= _costs(item, printed, ours)
    notes = [*also, *([found.why] if isinstance(found, Gap) else _notes(found))]
    comparable = ours and any(printed[metric] for metric in item.metrics)
    incomparable = _incomparable(item, ours) if ours and comparable else ""
    line[SAMPLE] = round(computed(sample_gmacs(config, ours)), 6) if ours else None
    for metric in item.metrics:
        line |= _metric(metric, printed[metric], ours, bool(incomparable))
        if ours and metric not in ours.metrics:
            why = ours.recipe.get("missing", {}).get(metric)
            notes.append(f"no {METRICS[metric].split()[0]}{f': {why}' if why else ''}")
    if incomparable:
        notes.append(incomparable)
    line["n"] = ours.recipe["n"] if ours else None
    line["note"] = "; ".join(notes)
    line["run"] = ours.run if ours else None
    line["evaluation"] = ours.label if ours else None
    return line


def _costs(item: Table, printed: dict[str, str], ours: Result | None) -> dict[str, Any]:
    """Parameters in millions (trainable, as DiT counts) and GMACs of one forward pass."""
    costs: dict[str, Any] = {}
    if item.cost or "parameters" in printed:
        costs["parameters_ours"] = ours.header["parameters"]["trainable"] / 1e6 if ours else None
    if "parameters" in printed:
        costs["parameters_published"] = printed["parameters"] or None
    if item.cost:
        for kind in ("dense", "sparse"):
            costs[f"gmacs_{kind}_ours"] = ours.header["gmacs"][kind] if ours else None
    return costs


def _metric(metric: str, printed: str, ours: Result | None, incomparable: bool) -> dict[str, Any]:
    value = ours.metrics.get(metric) if ours else None
    difference = None
    if value is not None and printed != "" and not incomparable:
        difference = round(value - float(printed), 6)
    return {
        f"{metric}_ours": value,
        f"{metric}_spread": ours.spread.get(metric) if ours else None,
        f"{metric}_published": printed or None,
        f"{metric}_difference": difference,
    }


def _incomparable(item: Table, ours: Result) -> str:
    """Why no difference to the published numbers is shown, or nothing: FID falls as n grows."""
    if ours.recipe["n"] != item.n:
        return f"no difference: n = {ours.recipe['n']}, published {item.n}"
    return "no difference: fewer images than features" if ours.recipe.get("rank_deficient") else ""


def _notes(ours: Result) -> list[str]:
    """What sets this row apart from how the table's numbers are usually made."""
    notes = []
    ratio = ours.recipe.get("ratio", ours.header["ratio"])
    if ours.header["kind"] == "content" and ratio != PUBLISHED_RATIO:
        notes.append(f"r = {ratio_key(ratio)}")
    if ours.recipe.get("guidance", 1.0) != 1.0:
        notes.append(f"guidance {ours.recipe['guidance']}")
    if len(ours.tried) > 1:
        notes.append(f"lowest FID of {', '.join(ours.tried)}")
    for protocol, resizing in RESIZING.items():  # of a second protocol
        if f"fid_{protocol}" in ours.metrics:
            notes.append(f"FID {ours.metrics[f'fid_{protocol}']:.2f} {resizing}")
    if "fid" in ours.raw:  # after few steps the average still holds some of the initial network
        notes.append(f"FID {ours.raw['fid']:.2f} without averaged weights")
    return notes


def remarks(study: Study, name: str, config: Config) -> list[str]:
    """Sentences below a table: what the numbers are."""
    item = item_of(study, name)
    assert isinstance(item, Table)
    found = [result(config, row.run, row.label) for row in item.all_rows(config)]
    several = of_several(config, [row.run for row in item.all_rows(config)])
    printed = [f"Published: {item.published}."] if item.published else []
    ours = [one for one in found if isinstance(one, Result)]
    shown = [COST] if ours else []
    if any("gmacs" in one.metrics for one in ours):
        shown.append(WINDOWS)
    return [*printed, *made_with(found), *shown, *several]


def write_table(study: Study, name: str, config: Config) -> list[Path]:
    """results/<scale>/tables/<name>.{csv,md,tex}, the same bytes every time."""
    item = item_of(study, name)
    frame = table(study, name, config)
    first = scale_line(config, "all_tables", data_of(study, name, config))
    below = remarks(study, name, config)
    title = f"{heading(name)} ({place(item)}). {item.title}."
    texts = {
        "csv": f"# {first}\n" + frame.to_csv(index=False, lineterminator="\n"),
        "md": markdown(readable(frame), title, first, below),
        "tex": latex(readable(frame), title, first, below, name),
    }
    written = []
    for suffix, text in texts.items():
        written.append(paths.tables(config) / f"{name}.{suffix}")
        write_text(written[-1], text)
    return written


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines as short text: ours ± spread, published, difference; without empty columns."""
    columns: dict[str, list[str]] = {}
    for column in frame.columns:
        base, _, part = column.rpartition("_")
        values = list(frame[column])
        label = METRICS.get(base) or COSTS.get(base)
        if column == "row":
            columns["method"] = values
        elif column == "evaluation" and set(frame[column].dropna()) <= {"main"}:
            continue
        elif column == SAMPLE:
            columns["GMACs a sample"] = [_gmacs(value) for value in values]
        elif label is None:
            columns[column] = [_text(value) for value in values]
        elif part == "published" and frame.attrs["published"]:
            columns[f"{label} published"] = [_text(value) for value in values]
        elif part == "difference" and frame[column].notna().any():
            columns[f"{label.split()[0]} difference"] = [_text(value, "+.2f") for value in values]
        elif part == "ours" and base in METRICS:
            spreads = frame[f"{base}_spread"]
            columns[f"{label} ours"] = [_ours(*pair) for pair in zip(values, spreads, strict=True)]
        elif part == "ours":
            whose = " ours" if f"{base}_published" in frame else ""
            columns[f"{label}{whose}"] = [_text(value, ".3g") for value in values]
    return pd.DataFrame(columns)


def _ours(value: Any, spread: Any) -> str:
    text = _text(value, ".2f")
    return text if pd.isna(spread) else f"{text} ± {spread:.2f}"


def _gmacs(value: Any) -> str:
    return _text(value, ",.0f" if value and value >= 100 else ".3g")


def _text(value: Any, form: str = "") -> str:
    return ABSENT if pd.isna(value) or value == "" else f"{value:{form}}"
