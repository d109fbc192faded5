"""What a launcher file gives each kind of run (params/launcher/)."""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from d2it.config.load import build, nearest, params_folder, parse_yaml, read_yaml
from d2it.errors import UserError


@dataclass(frozen=True)
class Resources:
    """What one kind of run gets."""

    processes: int = 1  # per node; on GPUs, one each
    nodes: int = 1
    gpus: int = 0  # per node
    cpus: int = 1  # per process
    minutes: int = 1440  # time limit of a job
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    shares: int = 0  # jobs of an array that samples, encodes or measures; 0: computed here
    at_once: int = 8  # of them, at most
    python: str | None = None  # what starts Python in a job; None: this very one
    # further sbatch options; those of a stage are added to those of all. None: this one is left out
    extra: dict[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Launcher:
    """A file of params/launcher/."""

    cluster: Literal["local", "slurm"]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1  # of each process on the CPU
    poll: int = 60  # seconds between two questions to Slurm's accounting, for all runs together
    resources: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # what differs, by kind of run

    def of(self, kind: str) -> Resources:
        own = self.stages.get(kind, {})
        given = self.resources | own
        of_all, of_kind = self.resources.get("extra"), own.get("extra")
        if isinstance(of_all, dict) and isinstance(of_kind, dict):
            given["extra"] = of_all | of_kind
        return build(Resources, given, f"stages.{kind}" if kind in self.stages else "resources")


def load_launcher(words: str | None = None) -> Launcher:
    """A launcher by its name or its file, and what differs from it, e.g. "slurm
    resources.account=vision stages.dvae.minutes=2880". Default: D2IT_LAUNCHER, else local."""
    words = words or os.environ.get("D2IT_LAUNCHER") or "local"
    try:
        name, *changes = shlex.split(words) or ["local"]
    except ValueError as error:
        raise UserError(f"The launcher {words!r} is no list of words ({error}).") from None
    folder = params_folder() / "launcher"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    try:
        settings = read_yaml(path)
        for change in changes:
            _set(settings, change)
        launcher = build(Launcher, settings, "")
        for kind in ("", *launcher.stages):
            launcher.of(kind)  # every mistake is met before anything runs
        return launcher
    except FileNotFoundError:
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        raise UserError(
            f"There is no launcher {name!r}{nearest(name, known)}: choose {' or '.join(known)}, "
            "or a YAML file."
        ) from None
    except UserError as error:
        raise UserError(f"In {path}: {error}") from None


def _set(settings: Any, change: str) -> None:
    """Set one entry of a launcher, named as in "stages.dvae.minutes=2880"."""
    name, equals, value = change.partition("=")
    *tables, key = name.split(".")
    if not equals:
        raise UserError(f"{change!r} is no setting: write e.g. resources.partition=gpu.")
    for table in tables:
        if isinstance(settings, dict):
            found = settings.get(table, {})
            # a copy: an alias in the file names a table that other stages have too
            settings[table] = dict(found) if isinstance(found, dict) else found
            settings = settings[table]
    if not isinstance(settings, dict):
        raise UserError(f"There is no table {'.'.join(tables)!r} for {change!r}.")
    settings[key] = parse_yaml(value, name)
