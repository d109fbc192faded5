"""runs/<run>-<digest8>: all of a run but its result, and the lease of whoever trains it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from d2it.clock import milestone, seed_of
from d2it.config import paths, recipe
from d2it.config.schema import Config, Training
from d2it.cost.memory import Need, need_of
from d2it.errors import UserError
from d2it.files import canonical_digest, read_json
from d2it.grains.thresholds import thresholds_of


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
