"""All evaluations of one run, to one JSON file and one gallery."""

from collections.abc import Callable
from typing import Any

from d2it.config import Config, paths
from d2it.config.recipe import kind_of
from d2it.cost.macs import gmacs, parameters
from d2it.evaluation.dvae import first_stage
from d2it.evaluation.gallery import write_gallery
from d2it.evaluation.grain import grain_maps
from d2it.evaluation.measure import Evaluated, Judge
from d2it.evaluation.samples import of_one_map, samples, share_of_samples
from d2it.files import write_json
from d2it.sampling.trained_run import trained
from d2it.shares import Share

FORMAT, VERSION = "d2it-evaluation", 1

EVALUATORS: dict[str, Callable[[Judge], dict[str, Evaluated]]] = {
    "dvae": first_stage,
    "grain": grain_maps,
    "content": samples,
    "dit": samples,
}


def evaluate(config: Config, run: str, share: Share | None = None) -> list[str]:
    """Write results/<scale>/evaluations/<run>.json and results/<scale>/gallery/<run>/.

    With `share` only its units are computed, and nothing is put together. Whatever was finished
    before a kill is read from the run folder. Returns what all of it was computed on.
    """
    kind = kind_of(config, run)
    header = trained(config, run)  # before anything slow
    judge = Judge(config, run)
    if share is not None:
        if kind in ("content", "dit"):
            share_of_samples(judge, share)
        return []
    found = EVALUATORS[kind](judge)
    pictures = {label: one.pictures for label, one in found.items()}
    write_gallery(config, run, pictures | of_one_map(judge, pictures))
    evaluations = {label: one.entry for label, one in found.items()}
    write_json(paths.evaluation(config, run), describe(config, run, header, evaluations))
    return sorted({device for one in found.values() for device in one.devices})


def describe(
    config: Config, run: str, header: dict[str, Any], evaluations: dict[str, Any]
) -> dict[str, Any]:
    """The evaluation file: what was evaluated, what it costs, and the numbers."""
    kind, architecture = header["kind"], header["architecture"]
    spec = getattr(config.runs, kind)[run]
    ratio = getattr(spec, "ratio", 1.0)  # a DiT's regions are all fine
    fixed = ratio if kind == "content" else config.ratio
    return {
        "format": FORMAT,
        "version": VERSION,
        "scale": config.name,
        "run": run,
        "kind": kind,
        "recipe_digest": header["recipe_digest"],
        "ratio": ratio,
        "images": header["images"],
        "parameters": parameters(kind, architecture),
        "gmacs": gmacs(kind, architecture, fixed),
        "split": list(spec.split) if kind == "content" else None,
        "evaluations": evaluations,
    }
