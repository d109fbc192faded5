"""What training a run takes, and the folder it happens in."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from d2it.clock import milestone, seed_of
from d2it.config import paths
from d2it.config.documents import conform
from d2it.config.recipe import ratio_key, thresholds_source
from d2it.config.run import Run
from d2it.config.schema import Training
from d2it.cost.memory import Need, need_of
from d2it.errors import SETTINGS, UserError
from d2it.files import canonical_digest, read_sealed
from d2it.grains.thresholds import thresholds_of


class Measured(TypedDict):
    """What is read of a manifest; images have no ratios."""

    ratios: NotRequired[dict[str, Any]]


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
    for_equals: tuple[int, ...] = ()  # milestones that runs want which share the folder

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
        """Images seen when something is kept for good that the run itself cannot do without."""
        return tuple(sorted({*self.milestones, *self.snapshots}))

    @property
    def state(self) -> Path:
        return self.folder / "state"


def make_plan(run: Run) -> Plan:
    return Plan(
        run=run.name,
        kind=run.kind,
        folder=run.folder,
        training=run.training,
        seed=_seed(run),
        milestones=run.milestones,
        recipe=run.recipe,
        inputs=_inputs(run),
        settings=asdict(run.config),
        noise=_noise(run),
        widths=run.widths,
        need=need_of(run),
        for_equals=tuple(sorted({mark for equal in run.equals for mark in equal.milestones})),
    )


def _seed(run: Run) -> int:
    """Of the order of the images, and of what is drawn in training."""
    seed = run.config.seed
    return seed if run.repeat is None else seed_of(seed, "training", run.repeat)


def _noise(run: Run) -> str | None:
    """Trainings with a seed of their own are compared in pairs: DiT and D2iT draw the same times,
    mirrors and noise, which costs a difference of the two nothing and spares it their scatter.
    """
    return "codes" if run.kind in ("content", "dit") and run.repeat is not None else None


def _inputs(run: Run) -> dict[str, str]:
    config, kind = run.config, run.kind
    if kind == "dvae":
        command, manifest = f"d2it prepare {run.data}", paths.images(config, run.data)
    else:
        command, manifest = f"d2it encode {run.dvae.name}", run.latents
    manifest = manifest / "manifest.json"
    if not manifest.is_file():
        raise UserError(f"{manifest} is missing: make it with `{command}{SETTINGS}`.")
    ratio = "" if kind == "dvae" else ratio_key(run.ratio)
    inputs = {manifest.as_posix(): _content(manifest, ratio, command)}
    if "thresholds" in run.recipe["inputs"]:
        path = paths.thresholds(config, thresholds_source(config, run.data))
        inputs[path.as_posix()] = thresholds_of(config, run.data, run.factors[0]).digest
    return inputs


def _content(manifest: Path, ratio: str, made_by: str) -> str:
    """Digest of what a manifest says. Latents may be measured at other ratios while a run lasts."""
    value = read_sealed(manifest, made_by=made_by)
    conform(Measured, value, manifest, made_by)
    if "ratios" in value:
        value["ratios"] = value["ratios"].get(ratio)
    return canonical_digest(value)
