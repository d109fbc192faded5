"""results/<scale>/index.html: every table and figure of a scale, and the runs behind them.

A static page: no script, no network, pictures beside it. It shows what has been made and names what
has not, so it can be written at any time, with the same bytes for the same results.
"""

import os
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from d2it.config import paths
from d2it.config.run import Run
from d2it.config.schema import Config
from d2it.config.study import (
    FIGURES,
    ITEMS,
    TABLES,
    Study,
    Table,
    heading,
    item_of,
    listing,
    place,
)
from d2it.cost.plan import runs_behind
from d2it.files import write_text
from d2it.report.metrics import metrics_of
from d2it.report.page_pictures import loss_curve, of_images, of_run
from d2it.report.page_style import STYLE
from d2it.report.results import Result, made_with, of_several, result, scale_line
from d2it.report.tables import ABSENT, METRICS, readable, remarks, table

MISSING = "Not made yet: <code>snakemake --cores 2 {} --config scale={}</code>"
ORDER = (*FIGURES, *TABLES)
PICTURES = "The first pictures of each run, picked by nobody; below each its grain map."
LONG = 40  # characters of a cell that may take several lines
NUMBER = re.compile(r"[+−-]?[\d.,]+( ± [\d.,]+)?|–")
HEADS = METRICS | {"rfid": "rFID ↓"}


def write_page(study: Study, config: Config) -> Path:
    path = paths.page(config)
    write_text(path, html(study, config, path.parent))
    return path


def html(study: Study, config: Config, folder: Path) -> str:
    """The page; its links start at `folder`."""
    runs = runs_behind(config, study, ITEMS)
    links = [f'<a href="#{name}">{heading(name)}</a>' for name in ORDER]
    links += ['<a href="#images">Images</a>', '<a href="#runs">Runs</a>']
    said = worth(runs, config)
    parts = [
        f"<h1>D²iT at the scale {escape(config.name)}</h1>",
        paragraph(scale_line(config, "all")),
        f"<nav>{''.join(links)}</nav>",
        "<h2>What a number here is worth</h2>",
        *(paragraph(line, "note") for line in said),
        '<h2 id="images">Images and their grain maps</h2>',
        paragraph("Red regions are fine: four times the codes of blue, coarse ones.", "note"),
        *data_sheets(runs, folder),
    ]
    for name in ORDER:
        parts += section(study, name, config, folder, said)
    fills = {row["run"]: row["fills"] for row in listing(study, config)}
    parts += ['<h2 id="runs">Runs</h2>', paragraph(PICTURES, "note"), '<div class="cards">']
    parts += [card(run, fills[run.name], folder) for run in runs]
    parts.append("</div>")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>D²iT: {escape(config.name)}</title>",
            f"<style>{STYLE}</style></head><body>",
            *parts,
            "</body></html>",
            "",
        ]
    )


def paragraph(text: str, kind: str = "") -> str:
    """`text` with its `code`."""
    told = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))
    return f'<p class="{kind}">{told}</p>' if kind else f"<p>{told}</p>"


def link(path: Path, folder: Path, text: str) -> str:
    return f'<a href="{escape(Path(os.path.relpath(path, folder)).as_posix())}">{escape(text)}</a>'


def picture(path: Path, folder: Path, alt: str, kind: str = "") -> str:
    source = escape(Path(os.path.relpath(path, folder)).as_posix())
    return f'<img src="{source}" alt="{escape(alt)}" class="{kind}" loading="lazy">'


def worth(runs: Sequence[Run], config: Config) -> list[str]:
    """What the numbers are worth: how many images, seeds and trainings they rest on."""
    names = [run.name for run in runs if run.evaluations]
    made = made_with(result(config, name) for name in names)
    every = of_several(config, names) or ["Each network was trained once, from one seed."]
    lines = [*made, *every] if made else ["Nothing is evaluated yet."]
    return lines


def data_sheets(runs: Sequence[Run], folder: Path) -> list[str]:
    """Each data set once, as its first DVAE learns from it."""
    dvaes = {run.data: run for run in reversed(runs) if run.kind == "dvae"}
    found = []
    for data, run in sorted(dvaes.items()):
        sheet = of_images(run)
        if sheet:
            what = f"{data}: {sheet[1]}"
            image = picture(sheet[0], folder, what, "sheet")
            found.append(f"<figure>{image}<figcaption>{escape(what)}</figcaption></figure>")
    return found


def section(study: Study, name: str, config: Config, folder: Path, said: list[str]) -> list[str]:
    """A table or a figure, with its files, and below a table what has not been said yet."""
    item = item_of(study, name)
    title = f"{heading(name)} ({place(item)}). {item.title}."
    kinds = ("png", "svg") if name in FIGURES else ("csv", "md", "tex")
    where = paths.figures(config) if name in FIGURES else paths.tables(config)
    files = [where / f"{name}.{kind}" for kind in kinds]
    parts = [f'<h2 id="{name}">{escape(title)}</h2>']
    if not all(path.is_file() for path in files):
        return [*parts, f'<p class="note">{MISSING.format(name, escape(config.name))}</p>']
    if isinstance(item, Table):
        parts.append(table_of(table(study, name, config)))
        new = [line for line in remarks(study, name, config) if line not in said]
        parts += [paragraph(line, "note") for line in new]
        said += new
    else:
        parts.append(picture(files[0], folder, title))
    links = [link(path, folder, path.suffix[1:]) for path in files]
    return [*parts, f'<p class="note">As a file: {", ".join(links)}</p>']


def table_of(frame: pd.DataFrame) -> str:
    """The lines as they are read, ours marked and linked to their runs."""
    text = readable(frame)
    return rows(list(text.columns), text.values.tolist(), list(frame["run"].notna()))


def rows(heads: Sequence[str], lines: Iterable[Sequence[str]], mine: Sequence[bool] = ()) -> str:
    """A table that scrolls by itself where it is wider than the screen."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = []
    for i, line in enumerate(lines):
        kind = ' class="ours"' if mine and mine[i] else ""
        body.append(f"<tr{kind}>{''.join(map(cell, line))}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        + "\n".join(body)
        + "</table></div>"
    )


def cell(text: str) -> str:
    run = re.fullmatch(r"(\w+)-[0-9a-f]{8}", text)
    if run:
        return f'<td><a href="#run-{escape(run[1])}">{escape(text)}</a></td>'
    kind = ' class="number"' if NUMBER.fullmatch(text) else ' class="long"' * (len(text) > LONG)
    return f"<td{kind}>{escape(text)}</td>"


def card(run: Run, fills: Sequence[str], folder: Path) -> str:
    """One run: its training and, where it fills a cell, its pictures and numbers."""
    lines = [f"<h3>{escape(run.name)} <small>{run.kind}</small></h3>"]
    lines.append(paragraph("Fills " + ", ".join(fills) + "." if fills else "Others rest on it."))
    if fills and (sheet := of_run(run)):
        image = picture(sheet[0], folder, f"{run.name}, {sheet[1]}", "sheet")
        lines.append(f"<figure>{image}<figcaption>{escape(sheet[1])}</figcaption></figure>")
    lines.append(loss_curve(run))
    links = [f"<code>{escape(run.id)}</code>"]
    if fills:
        lines.append(numbers(run))
        where = {
            "evaluation": paths.evaluation(run.config, run.name),
            "where it comes from": paths.provenance(run.config, run.name),
        }
        links += [link(path, folder, text) for text, path in where.items() if path.is_file()]
    lines.append(f'<p class="note">{" · ".join(links)}</p>')
    return (
        f'<article id="run-{escape(run.name)}">\n' + "\n".join(filter(None, lines)) + "</article>"
    )


def numbers(run: Run) -> str:
    """What the paper prints of each evaluation, with the images and seeds it rests on."""
    found = metrics_of(run.config, run.name)
    names = [name for name in HEADS if any(name in one for one in found.values())]
    lines = []
    for label, metrics in found.items():
        one = result(run.config, run.name, label)
        assert isinstance(one, Result)
        values = [f"{metrics[name]:.2f}" if name in metrics else ABSENT for name in names]
        seeds = len(one.recipe.get("seeds", [0]))
        lines.append([label, *values, str(one.recipe["n"]), str(seeds)])
    return rows(["", *(HEADS[name] for name in names), "n", "seeds"], lines) if lines else ""
