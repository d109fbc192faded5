"""params/study.yaml: which run and which evaluation fills which cell of which table or figure.

No torch and no pandas here: the Snakefile reads the study.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from d2it.config import paths
from d2it.config.load import params_folder, read_typed
from d2it.config.run import Run, runs_of
from d2it.config.schema import Config
from d2it.config.typed import nearest
from d2it.errors import UserError

BEYOND = "beyond the paper"


@dataclass(frozen=True)
class Row:
    row: str  # of data/published/<table>.csv
    run: str
    label: str = "main"  # of the run's evaluations; with a `*`, the one with the lowest FID
    name: str | None = None  # None: the published row's


@dataclass(frozen=True)
class Table:
    title: str
    section: str
    metrics: list[str]
    rows: list[Row]
    published: str | None = None  # what the published numbers are; None: there are none
    n: int | None = None  # images of the published FID; no difference is shown to other numbers
    cost: bool = False  # parameters and GMACs of every row
    # Ours alone: `row` is what it is called. Only where the scale trains the run.
    beyond: list[Row] = field(default_factory=list)

    def all_rows(self, config: Config) -> list[Row]:
        return [*self.rows, *(row for row in self.beyond if at_scale(config, row.run))]


@dataclass(frozen=True)
class Samples:
    """A figure of samples and grain maps."""

    title: str
    section: str
    run: str
    gallery: str  # label of its pictures in the run's gallery
    published: str = ""


@dataclass(frozen=True)
class Ratios:
    """A figure over the share of fine regions."""

    title: str
    section: str
    published: str
    runs: list[str]


@dataclass(frozen=True)
class Curve:
    model: str
    size: str
    run: str


@dataclass(frozen=True)
class Curves:
    """A figure over the images seen in training."""

    title: str
    section: str
    published: str
    labels: list[str]  # evaluations along one run
    curves: list[Curve]


@dataclass(frozen=True)
class Line:
    """Networks of one model that differ in size."""

    model: str
    runs: list[str]


@dataclass(frozen=True)
class Compute:
    """A figure over what samples and trainings cost, of every network that draws."""

    title: str
    published: str
    lines: list[Line]
    section: str = BEYOND

    def runs(self, config: Config) -> list[str]:
        """Without the repeats of an experiment."""
        every = runs_of(config).values()
        return [run.name for run in every if run.kind in ("content", "dit") and not run.repeat]


@dataclass(frozen=True)
class Study:
    table_1: Table
    table_2: Table
    table_3: Table
    table_4: Table
    table_5: Table
    table_6: Table
    figure_3: Samples
    figure_4: Samples
    figure_5: Ratios
    figure_6: Curves
    figure_7: Compute


Item = Table | Samples | Ratios | Curves | Compute
ITEMS = tuple(f.name for f in fields(Study))
TABLES = tuple(name for name in ITEMS if name.startswith("table"))
FIGURES = tuple(name for name in ITEMS if name.startswith("figure"))


def load_study(path: Path | None = None) -> Study:
    return read_typed(Study, path or params_folder() / "study.yaml", "study")


def item_of(study: Study, name: str) -> Item:
    """The table or figure called e.g. `table_3`."""
    if name not in ITEMS:
        raise UserError(
            f"There is no {name.replace('_', ' ')!r}{nearest(name, ITEMS)}: "
            f"choose one of {', '.join(ITEMS)}."
        )
    item: Item = getattr(study, name)
    return item


def heading(name: str) -> str:
    """`table_3` as the paper writes it."""
    return name.replace("_", " ").capitalize()


def place(item: Item) -> str:
    """Where it stands in the paper, if it does."""
    return item.section if item.section == BEYOND else f"section {item.section}"


def at_scale(config: Config, run: str) -> bool:
    """Whether the scale trains a run of this name."""
    return any(run in of_kind for of_kind in vars(config.runs).values())


def cells(study: Study, config: Config) -> Iterator[tuple[str, str, str]]:
    """(item, run, what it fills there) of every cell and point, also those without a run here."""
    for name in ITEMS:
        item = item_of(study, name)
        if isinstance(item, Table):
            for row in item.all_rows(config):
                yield name, row.run, row.name or row.row
        elif isinstance(item, Samples):
            yield name, item.run, "samples"
        elif isinstance(item, Curves):
            for curve in item.curves:
                yield name, curve.run, f"{curve.model}-{curve.size}"
        elif isinstance(item, Compute):
            for run in item.runs(config):
                yield name, run, "FID"
        else:
            yield from _ratio_cells(name, item, config)


def _ratio_cells(name: str, item: Ratios, config: Config) -> Iterator[tuple[str, str, str]]:
    for run in item.runs:
        if at_scale(config, run):
            content = config.runs.content[run]
            yield name, run, f"FID at r = {content.ratio}"
            yield name, content.latents, f"rFID at r = {content.ratio}"
        else:
            yield name, run, "FID"


def needs(study: Study, item: str, config: Config) -> list[str]:
    """Runs whose evaluation `item` shows, without those that the scale does not train."""
    item_of(study, item)
    runs = (run for name, run, _ in cells(study, config) if name == item)
    return [run for run in dict.fromkeys(runs) if at_scale(config, run)]


def data_of(study: Study, item: str, config: Config) -> list[str]:
    """The data sets that its runs learn from."""
    runs = runs_of(config)
    return list(dict.fromkeys(runs[name].data for name in needs(study, item, config)))


def inputs(study: Study, item: str, config: Config) -> list[Path]:
    """Files that `item` is made of: evaluations and published numbers, or a gallery's manifest."""
    runs = needs(study, item, config)
    if isinstance(item_of(study, item), Samples):
        return [paths.gallery(config, run) / "manifest.json" for run in runs]
    evaluations = [paths.evaluation(config, run) for run in runs]
    printed = [Path("data", "published", f"{item}.csv")] if item_of(study, item).published else []
    return evaluations + printed


def listing(study: Study, config: Config) -> list[dict[str, Any]]:
    """Every run of the scale: kind, folder name, inputs, and the cells it fills."""
    fills: dict[str, list[str]] = {}
    for item, run, what in cells(study, config):
        text = f"{heading(item)} ({what})"
        if text not in fills.setdefault(run, []):
            fills[run].append(text)
    return [
        {
            "run": run.name,
            "kind": run.kind,
            "folder": run.folder.name,
            "inputs": [one.name for one in run.inputs] or [run.data],
            "fills": fills.get(run.name, []),
        }
        for run in runs_of(config).values()
    ]


def with_inputs(runs: Iterable[Run]) -> list[Run]:
    """`runs`, and the runs that they are trained and sampled with, each once."""
    found: dict[Run, None] = {}
    for run in runs:
        found |= dict.fromkeys([*with_inputs(run.inputs), run])
    return list(found)
