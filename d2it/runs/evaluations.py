"""The evaluation file of a run, as everything that shows its numbers reads it."""

from typing import Any, NotRequired, TypedDict

from d2it.config.documents import conform
from d2it.config.run import Run
from d2it.files import read_format
from d2it.runs import provenance

FORMAT, VERSION = "d2it-evaluation", 1


class Entry(TypedDict):
    """One evaluation of a file."""

    metrics: dict[str, float]
    spread: NotRequired[dict[str, float | None]]
    recipe: dict[str, Any]


class Evaluations(TypedDict):
    """What an evaluation file says at least."""

    recipe_digest: str
    images: int
    evaluations: dict[str, Entry]


def read(run: Run) -> dict[str, Any]:
    """All that it says, if that is what its provenance records."""
    made_by = f"d2it evaluate {run.name}"
    header = read_format(run.evaluation, FORMAT, VERSION, made_by=made_by)
    conform(Evaluations, header, run.evaluation, made_by)
    provenance.check(run)
    return header
