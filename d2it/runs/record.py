"""What a run folder says of itself: its recipe, its settings, and each start."""

import json
import os
import socket
import time
from typing import Any

import yaml

from d2it.errors import UserError
from d2it.files import canonical_digest, read_json, write_json, write_text
from d2it.runs.plan import Plan
from d2it.runs.provenance import commit
from d2it.version import __version__


def claim(plan: Plan) -> None:
    """Write what the run is, or check that the folder's run is this one."""
    path = plan.folder / "recipe.json"
    mine = {"recipe": plan.recipe, "inputs": plan.inputs}
    if path.is_file():
        theirs = read_json(path, made_by=f"d2it train {plan.run}")
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
        write_json(path, mine)
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
    starts = read_json(path, made_by=made_by)["starts"] if path.is_file() else []
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    start |= {"d2it": __version__, "commit": commit(), **facts}
    write_json(path, {"starts": [*starts, start]})
