"""What a run folder says of itself: its recipe, its settings, and each start."""

import json
import os
import socket
import time
from typing import Any, TypedDict

import yaml

from d2it.config.documents import conform
from d2it.errors import UserError
from d2it.files import canonical_digest, read_sealed, write_sealed, write_text
from d2it.runs.plan import Plan
from d2it.runs.provenance import commit
from d2it.version import __version__


class Begun(TypedDict):
    """recipe.json: what a run was begun with."""

    recipe: dict[str, Any]
    inputs: dict[str, str]


class Starts(TypedDict):
    """provenance.json of a run folder."""

    starts: list[dict[str, Any]]


def claim(plan: Plan) -> None:
    """Write what the run is, or check that the folder's run is this one."""
    path = plan.folder / "recipe.json"
    mine = {"recipe": plan.recipe, "inputs": plan.inputs}
    if path.is_file():
        made_by = f"d2it train {plan.run}"
        theirs = conform(Begun, read_sealed(path, made_by=made_by), path, made_by)
        if canonical_digest(theirs["recipe"]) != canonical_digest(plan.recipe):
            where = _difference(theirs["recipe"], json.loads(json.dumps(plan.recipe)))
            raise UserError(
                f"{plan.folder} was made with another recipe ({where} differs): move it away and "
                "run the same command again."
            )
        for name, digest in plan.inputs.items():
            if digest not in theirs["inputs"].values():  # another scale has the same elsewhere
                raise UserError(
                    f"{name} has changed since {plan.folder} was begun: put it back, or delete "
                    "that folder to train anew."
                )
    else:
        write_sealed(path, mine)
    write_text(
        plan.folder / "config.yaml",
        yaml.safe_dump(plan.settings, sort_keys=False, allow_unicode=True),
    )


def _difference(ours: Any, theirs: Any, where: str = "") -> str:
    """Dotted name of the first setting in which two recipes differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(set(ours) | set(theirs)):
            if ours.get(key) != theirs.get(key):
                return _difference(
                    ours.get(key), theirs.get(key), f"{where}.{key}" if where else key
                )
    return where


def record_start(plan: Plan, **facts: Any) -> None:
    """Add to provenance.json what may differ between equal runs. No stage reads it."""
    path = plan.folder / "provenance.json"
    made_by = f"d2it train {plan.run}"
    starts: list[dict[str, Any]] = []
    if path.is_file():
        starts = conform(Starts, read_sealed(path, made_by=made_by), path, made_by)["starts"]
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    start |= {"d2it": __version__, "commit": commit(), **facts}
    write_sealed(path, {"starts": [*starts, start]})
