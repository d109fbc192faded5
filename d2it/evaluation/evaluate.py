"""All evaluations of one run, to one JSON file and one gallery."""

from collections.abc import Callable
from typing import Any

from d2it.config.run import Run
from d2it.cost.macs import gmacs, parameters
from d2it.evaluation.dvae import first_stage
from d2it.evaluation.gallery import write_gallery
from d2it.evaluation.grain import grain_maps
from d2it.evaluation.measure import Evaluated, Evaluator
from d2it.evaluation.samples import of_one_map, samples, share_of_samples
from d2it.files import write_json
from d2it.models.store import trained
from d2it.runs.evaluations import FORMAT, VERSION
from d2it.shares import Share

EVALUATORS: dict[str, Callable[[Evaluator], dict[str, Evaluated]]] = {
    "dvae": first_stage,
    "grain": grain_maps,
    "content": samples,
    "dit": samples,
}


def evaluate(run: Run, share: Share | None = None) -> list[str]:
    """Write results/<scale>/evaluations/<run>.json and results/<scale>/gallery/<run>/.

    With `share` only its units are computed, and nothing is put together. Whatever was finished
    before a kill is read from the run folder. Returns what all of it was computed on.
    """
    header = trained(run)  # before anything slow
    evaluator = Evaluator(run)
    if share is not None:
        if run.kind in ("content", "dit"):
            share_of_samples(evaluator, share)
        return []
    found = EVALUATORS[run.kind](evaluator)
    pictures = {label: one.pictures for label, one in found.items()}
    write_gallery(run, pictures | of_one_map(evaluator, pictures))
    evaluations = {label: one.entry for label, one in found.items()}
    write_json(run.evaluation, describe(run, header, evaluations))
    return sorted({device for one in found.values() for device in one.devices})


def describe(run: Run, header: dict[str, Any], evaluations: dict[str, Any]) -> dict[str, Any]:
    """The evaluation file: what was evaluated, what it costs, and the numbers."""
    kind, architecture = run.kind, header["architecture"]
    fixed = run.main_ratio if kind == "content" else run.config.ratio
    return {
        "format": FORMAT,
        "version": VERSION,
        "scale": run.config.name,
        "run": run.name,
        "kind": kind,
        "recipe_digest": header["recipe_digest"],
        "ratio": run.ratio,
        "images": header["images"],
        "parameters": parameters(kind, architecture),
        "gmacs": gmacs(kind, architecture, fixed),
        "split": list(run.spec.split) if kind == "content" else None,
        "evaluations": evaluations,
    }
