"""What a scale keeps of the one it begins with, and what a repeat has of its experiment.

Hydra merges tables: it drops no entry of one, and adds none for each of a number of seeds.
"""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

from d2it.config.recipe import KINDS

EVALUATIONS = ("evaluations", "convergence", "convergence_guided")  # tables of what is measured
LEARNS_FROM = {"data", "latents"}  # of which every experiment says one


def keep_chosen(composed: Any, experiments: Collection[str], named: Collection[str]) -> None:
    """Drop the settings and repeats of `experiments` that an inheriting scale no longer chooses.

    They are no runs: nothing says what they learn from. Those that the user named stay, for a
    sentence to say so.
    """
    tables = _tables(composed)
    for name in set(experiments) - set(named):
        for runs in tables:
            if name in runs and not LEARNS_FROM & _table(runs[name]).keys():
                del runs[name]
        if not any(name in runs for runs in tables):
            _table(composed.get("repeats")).pop(name, None)


def add_repeats(composed: Any) -> None:
    """`x_s1`, `x_s2`, … beside each experiment `x` that is repeated, with all of its settings."""
    for name, count in _table(composed.get("repeats")).items():
        for runs in (runs for runs in _tables(composed) if name in runs):
            for seed in range(1, count if isinstance(count, int) else 0):
                own = _table(runs.get(f"{name}_s{seed}"))  # refused if it differs
                runs[f"{name}_s{seed}"] = deepcopy(_table(runs[name])) | own


def drop_evaluations(value: Any, table: str = "") -> Any:
    """A scale drops an evaluation that it inherits by setting it to null."""
    if not isinstance(value, dict):
        return value
    return {
        key: drop_evaluations(entry, str(key))
        for key, entry in value.items()
        if entry is not None or table not in EVALUATIONS
    }


def _tables(composed: Any) -> list[dict[str, Any]]:
    """The runs of each kind."""
    runs = _table(composed.get("runs"))
    return [_table(runs.get(kind)) for kind in KINDS]


def _table(value: Any) -> dict[str, Any]:
    """What is none is found by the schema."""
    return value if isinstance(value, dict) else {}
