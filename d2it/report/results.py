"""The numbers that tables and figures are made of: our evaluations, and what others printed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from d2it.config import paths
from d2it.config.recipe import repeats_of
from d2it.config.run import runs_of
from d2it.config.schema import Config
from d2it.runs import evaluations

PUBLISHED_RATIO = 0.5  # section 4.2


@dataclass(frozen=True)
class Result:
    """One evaluation of one run."""

    run: str  # with its digest
    label: str
    metrics: dict[str, float]
    spread: dict[str, float | None]  # standard deviation over sampling seeds
    recipe: dict[str, Any]
    header: dict[str, Any]  # the rest of the file: ratio, images, parameters, gmacs, ...
    tried: tuple[str, ...] = ()  # labels that this one was chosen from
    raw: dict[str, float] = field(default_factory=dict)  # metrics of weights without averaging


@dataclass(frozen=True)
class Gap:
    """Why a cell is empty."""

    why: str


def evaluations_of(config: Config, run: str) -> dict[str, Result] | Gap:
    """All that was evaluated of `run`, by label."""
    known = runs_of(config).get(run)
    if known is None:
        return Gap("not at this scale")
    if not known.evaluation.exists():
        return Gap("not evaluated yet")
    header = evaluations.read(known)
    found = header.pop("evaluations")
    if header["recipe_digest"] != known.digest:
        return Gap("evaluated with other settings")
    return {
        label: Result(known.id, label, one["metrics"], one.get("spread", {}), one["recipe"], header)
        for label, one in found.items()
    }


def result(config: Config, run: str, label: str | Sequence[str] = "main") -> Result | Gap:
    """The evaluation `label` of `run`; of several, or where a `*` matches several, the one with the
    lowest FID.
    """
    found = evaluations_of(config, run)
    if isinstance(found, Gap):
        return found
    wanted = [label] if isinstance(label, str) else label
    tried = tuple(sorted(name for name in found if any(fnmatchcase(name, w) for w in wanted)))
    if not tried:
        return Gap("not evaluated yet")
    best = min(tried, key=lambda name: found[name].metrics.get("fid", math.inf))
    raw = found["raw"].metrics if best == "main" and "raw" in found else {}
    return replace(found[best], tried=tried, raw=raw)


def measured(config: Config, run: str, labels: Sequence[str], metric: str) -> Result | Gap:
    """As `result`, with this metric."""
    found = result(config, run, labels)
    lacks = isinstance(found, Result) and metric not in found.metrics
    return Gap(f"evaluated without {metric}") if lacks else found


def scale_line(config: Config, target: str, data: Sequence[str] = ()) -> str:
    """What every table and figure says first of itself; `target` makes all of its kind, and its
    runs learnt from `data` (by default from all of the study).
    """
    how = f"snakemake --profile slurm {target} --config scale=paper"
    said = config.caption_of(data or config.task.values())
    return f"Scale {config.name}; the published scale: `{how}`. {said}".rstrip()


def made_with(found: Iterable[Result | Gap]) -> list[str]:
    """Sentences on how our samples were made and measured."""
    recipes = [one.recipe for one in found if isinstance(one, Result)]
    if not recipes:
        return []
    how = {
        f"n = {one['n']}, protocol {one['protocol']}, {one['steps']} {one['sampler']} steps"
        for one in recipes
    }
    seeds = max(len(one["seeds"]) for one in recipes)
    spread = f"± is the spread over {seeds} sampling seeds" if seeds > 1 else "one sampling seed"
    lines = [f"Ours: {'; '.join(sorted(how))}; {spread}."]
    if any(one.get("rank_deficient") for one in recipes):
        lines.append(
            "FID of fewer images than it has features: compare at equal n only, "
            "never with published numbers."
        )
    return lines


def of_several(config: Config, runs: Iterable[str]) -> list[str]:
    """The sentence below what shows one training of each, where there are more."""
    if all(len(repeats_of(config, run)) < 2 for run in runs):
        return []
    return [
        "Ours are the first of several trainings: what differs over training seeds, with "
        f"intervals, is in {paths.claims(config)}."
    ]
