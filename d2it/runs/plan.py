"""runs/<run>-<digest8>: all of a run but its result, and the lease of whoever trains it."""

import fcntl
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from d2it import __version__
from d2it.clock import milestone, seed_of
from d2it.config import paths, recipe
from d2it.config.schema import Config, Training
from d2it.cost.memory import Need, need_of
from d2it.errors import UserError
from d2it.files import canonical_digest, read_json, write_json, write_text
from d2it.grains.thresholds import thresholds_of
from d2it.runs.provenance import commit

HEARTBEAT = 5.0  # seconds between two beats of a lease
PATIENCE = (
    5.0  # seconds that a lease may take to become free: a process that was told to stop is saving
)
SILENCE = 4  # beats that a holder on another host must miss to be taken for dead


@dataclass(frozen=True)
class Plan:
    """What a run folder is to become: known before torch is imported or any data is opened."""

    run: str
    kind: str
    folder: Path
    training: Training
    seed: int
    milestones: tuple[int, ...]  # images seen, ascending, all before the end
    recipe: dict[str, Any]
    # digest of the manifest, or of the thresholds' table, of everything it is trained on
    inputs: dict[str, str]
    settings: dict[str, Any]  # the whole configuration, for the reader of config.yaml
    noise: str | None = None  # under which name its random numbers are drawn; None: its kind's
    widths: tuple[float, ...] = ()  # of the power-function averages to publish
    need: Need | None = None  # of a GPU's memory

    @property
    def images(self) -> int:
        """Images seen at the end: a whole number of steps."""
        return milestone(1.0, self.training.images, self.training.batch)

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Images seen when the power-function averages are kept, ascending, all before the end."""
        every, batch = self.training.snapshot_images, self.training.batch
        marks = (
            {-(n // -batch) * batch for n in range(every, self.images, every)} if every else set()
        )
        return tuple(sorted(marks - {self.images}))

    @property
    def marks(self) -> tuple[int, ...]:
        """Images seen when something is kept for good."""
        return tuple(sorted({*self.milestones, *self.snapshots}))

    @property
    def state(self) -> Path:
        return self.folder / "state"


def make_plan(config: Config, run: str) -> Plan:
    kind = recipe.kind_of(config, run)
    training: Training = getattr(config.training, kind)
    training = replace(training, images=recipe.training_images(config, run))
    measured = getattr(getattr(config.runs, kind)[run], "evaluations", {}).values()
    end = milestone(1.0, training.images, training.batch)
    marks = {milestone(e.at, end, training.batch) for e in measured}
    return Plan(
        run=run,
        kind=kind,
        folder=paths.run_folder(config, run),
        training=training,
        seed=_seed(config, run),
        milestones=tuple(sorted(marks - {end})),
        recipe=recipe.run_recipe(config, run),
        inputs=_inputs(config, run, kind),
        settings=asdict(config),
        noise=_noise(config, run, kind),
        widths=tuple(sorted({e.weights for e in measured if isinstance(e.weights, float)})),
        need=need_of(config, run),
    )


def _seed(config: Config, run: str) -> int:
    """Of the order of the images, and of what is drawn in training."""
    repeat = recipe.training_seed(config, run)
    return config.seed if repeat is None else seed_of(config.seed, "training", repeat)


def _noise(config: Config, run: str, kind: str) -> str | None:
    """Trainings with a seed of their own are compared in pairs: DiT and D2iT draw the same times,
    mirrors and noise, which costs a difference of the two nothing and spares it their scatter.
    """
    paired = kind in ("content", "dit") and recipe.training_seed(config, run) is not None
    return "codes" if paired else None


def _inputs(config: Config, run: str, kind: str) -> dict[str, str]:
    spec = getattr(config.runs, kind)[run]
    if kind == "dvae":
        command, manifest = f"d2it prepare {spec.data}", paths.images(config, spec.data)
    else:
        command, manifest = f"d2it encode {spec.latents}", paths.latents(config, spec.latents)
    manifest = manifest / "manifest.json"
    if not manifest.is_file():
        raise UserError(f"{manifest} is missing: make it with `{command}`.")
    ratio = "" if kind == "dvae" else recipe.ratio_key(getattr(spec, "ratio", 1.0))  # DiT: fine
    inputs = {manifest.as_posix(): _content(manifest, ratio, command)}
    if "thresholds" in recipe.run_recipe(config, run)["inputs"]:
        path = paths.thresholds(config, recipe.thresholds_source(config, spec.data))
        region = recipe.factors_of(config, run)[0]
        inputs[path.as_posix()] = thresholds_of(config, spec.data, region).digest
    return inputs


def _content(manifest: Path, ratio: str, made_by: str) -> str:
    """Digest of what a manifest says. Latents may be measured at other ratios while a run lasts."""
    value = read_json(manifest, made_by=made_by)
    if "ratios" in value:
        value["ratios"] = value["ratios"].get(ratio)
    return canonical_digest(value)


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


@contextmanager
def lease(folder: Path, wait: bool = False) -> Iterator[None]:
    """Be the only one who trains in `folder`, or say who is.

    A lock settles it on one machine, also after kill -9. On network file systems locks may be local
    to a host, so the holder also leaves a heartbeat: it must fall silent before we believe it dead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heartbeat = folder / "heartbeat.json"
    with open(folder / "lock", "a") as lock:
        _acquire(lock.fileno(), heartbeat, wait)
        _beat(heartbeat, 0)
        ended = threading.Event()

        def beat() -> None:
            for count in itertools.count(1):
                if ended.wait(HEARTBEAT):
                    return
                with suppress(OSError):  # a full disk stops training when it saves, not here
                    _beat(heartbeat, count)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            heartbeat.unlink(missing_ok=True)


def _beat(heartbeat: Path, count: int) -> None:
    value = {"host": socket.gethostname(), "pid": os.getpid(), "beat": count, "time": time.time()}
    write_json(heartbeat, value)


def await_free(folder: Path, wait: bool) -> None:
    """Return once nobody holds the lease; the sentence of who does if that takes too long."""
    if folder.is_dir():
        with open(folder / "lock", "a") as lock:
            _acquire(lock.fileno(), folder / "heartbeat.json", wait)


def _acquire(lock: int, heartbeat: Path, wait: bool) -> None:
    patience = time.monotonic() + PATIENCE
    while not _locked(lock):
        if not wait and time.monotonic() > patience:
            raise _in_use(heartbeat)
        time.sleep(0.1)
    first = _read_heartbeat(heartbeat)
    if first is None or first["host"] == socket.gethostname():
        return  # nobody, or one who died on this host: its lock went with it
    silence = time.monotonic() + SILENCE * HEARTBEAT
    while time.monotonic() < silence:
        time.sleep(0.5)
        seen = _read_heartbeat(heartbeat)
        if seen is None:
            return
        if seen != first:
            if not wait:
                raise _in_use(heartbeat)
            first, silence = seen, time.monotonic() + SILENCE * HEARTBEAT


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _read_heartbeat(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _in_use(heartbeat: Path) -> UserError:
    holder = _read_heartbeat(heartbeat)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return UserError(
        f"{heartbeat.parent} is being trained by {who}: wait for it (`--wait` does), or stop it, "
        "and run the same command again."
    )
