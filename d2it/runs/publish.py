"""From a finished run folder to the declared output: a copy of files, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from d2it.config.documents import conform
from d2it.errors import UserError
from d2it.files import canonical_digest, folder_files, read_format, write_format
from d2it.models.store import read_model, save_model, width_name, write_manifest
from d2it.runs import state
from d2it.runs.plan import Plan

FORMAT, VERSION = "d2it-done", 1


class Done(TypedDict):
    """done.json, beside its format and version."""

    images: int
    batch: int
    kind: str
    architecture: dict[str, Any]
    recipe: dict[str, Any]
    inputs: dict[str, str]
    extra: dict[str, Any]


def write_done(plan: Plan, **trained: Any) -> None:
    """done.json: the run has been trained to `images`, and this is what its model.json will say."""
    done = {"images": plan.images, "batch": plan.training.batch}
    write_format(plan.folder / "done.json", FORMAT, VERSION, done | trained)


def finished(plan: Plan, warn: Callable[[str], None]) -> Done | None:
    """done.json, if this very run was trained as long as it should be and its weights are sound."""
    path = plan.folder / "done.json"
    if not path.is_file():
        return None
    try:
        made_by = f"d2it train {plan.run}"
        done = conform(Done, read_format(path, FORMAT, VERSION, made_by=made_by), path, made_by)
    except UserError as error:
        warn(str(error))
        return None
    if canonical_digest(done["recipe"]) != canonical_digest(plan.recipe):
        warn(f"{path} is of another recipe than {plan.run}: it is written again.")
        return None
    newest = state.latest(plan.state, plan.images, plan.marks, warn)
    complete = newest is not None and newest.images == plan.images == done["images"]
    return done if complete else None


def is_published(plan: Plan, folder: Path) -> bool:
    """Whether `folder` holds all of this run already, e.g. from `dvc pull`, whatever runs/ holds.

    Its manifest is written again: workflows delete it before they ask.
    """
    try:
        header = read_model(folder)
    except UserError:
        return False
    marks = (f"milestone-{images}" for images in plan.milestones)
    stems = ("model", "raw", *marks, *map(width_name, plan.widths))
    files = folder_files(folder)
    weights = {name: entry for name, entry in files.items() if name != "model.json"}
    same = header["recipe_digest"] == canonical_digest(plan.recipe)
    whole = weights == header["files"] and set(weights) == {f"{stem}.safetensors" for stem in stems}
    if same and whole and header["images"] == plan.images:
        write_manifest(folder, files)
        return True
    return False


def publish(plan: Plan, done: Done, folder: Path) -> None:
    """Copy the weights of a finished run to `folder`, a model as d2it/models/store.py reads it."""
    end = state.state_folder(plan.state, plan.images)
    weights: dict[str, Any] = {stem: end / f"{stem}.safetensors" for stem in ("model", "raw")}
    for images in plan.milestones:
        file = state.milestone_folder(plan.state, images) / "model.safetensors"
        weights[f"milestone-{images}"] = file
    for width in plan.widths:  # only where an evaluation asks for one: it takes torch
        from d2it.runs.snapshots import reconstruct

        weights[width_name(width)] = reconstruct(plan, width)
    said: Any = {key: value for key, value in done.items() if key in Done.__annotations__}
    save_model(folder, weights=weights, **said)
