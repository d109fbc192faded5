"""A run: one network that is trained, resolved once from its name.

Its recipe is all that decides its weights at a given image count, and names its folder. Lengths of
training are not in it: with a constant rate a longer run extends a shorter one.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from d2it.clock import milestone
from d2it.config import paths
from d2it.config.experiments import LETTER, PLAIN, ContentRun, Measured
from d2it.config.ratios import finest, half_finest, is_constant
from d2it.config.recipe import (
    KINDS,
    Recipe,
    digest,
    factors_of,
    images_recipe,
    make_recipe,
    thresholds_recipe,
    training_seed,
)
from d2it.config.schema import Config, Dataset, Training
from d2it.config.typed import nearest
from d2it.config.types import Learned, Ratio
from d2it.errors import SETTINGS, UserError


@dataclass(frozen=True, eq=False)
class Run:
    """What one name of an experiment stands for. Cheap: recipes are computed when asked for."""

    config: Config = field(repr=False)
    name: str
    kind: str
    entry: Any = field(repr=False)  # DvaeRun, GrainRun, ContentRun or DitRun, of config.runs
    peers: dict[str, "Run"] = field(repr=False)  # every run of the configuration, by name

    @cached_property
    def spec(self) -> Any:
        """Its entry; a content run's with what it leaves to the model."""
        if not isinstance(self.entry, ContentRun):
            return self.entry
        design = LETTER if self.config.model.letter else PLAIN
        left = {key: value for key, value in design.items() if getattr(self.entry, key) is None}
        return replace(self.entry, **left)

    @cached_property
    def training(self) -> Training:
        """How its kind is trained, with the run's own length."""
        training: Training = getattr(self.config.training, self.kind)
        return replace(training, images=int(self.spec.images or training.images))

    @property
    def dvae(self) -> "Run":
        """The run whose latents it learns from; a DVAE itself."""
        return self if self.kind == "dvae" else self.peers[self.spec.latents]

    @property
    def grain(self) -> "Run | None":
        """The run that draws its grain maps; None where they are constant."""
        name = getattr(self.spec, "grain", None)
        return self.peers[name] if name else None

    @property
    def inputs(self) -> list["Run"]:
        """The runs that must be there before it can be trained and sampled."""
        return [] if self.kind == "dvae" else [self.dvae, *filter(None, [self.grain])]

    @property
    def data(self) -> str:
        """The data set that it learns from and is compared with."""
        name: str = self.dvae.spec.data
        return name

    @property
    def dataset(self) -> Dataset:
        return self.config.data[self.data]

    @property
    def factors(self) -> list[int]:
        return factors_of(self.config, self.dvae.name)

    @property
    def ratio(self) -> Learned:
        """Of what it learns from; every region of a DiT's is of the finest grain."""
        ratio: Learned = finest(len(self.factors)) if self.kind == "dit" else self.spec.ratio
        return ratio

    @property
    def main_ratio(self) -> Ratio:
        """At which it draws unless it is asked for another one: its own, or of random ones the
        main ratio, which for more grains than two is half of the regions finest.
        """
        if not isinstance(self.ratio, str):
            return self.ratio
        main, grains = self.config.ratio, len(self.factors)
        return main if grains == len(self.config.model.factors) else half_finest(grains)

    @property
    def evaluations(self) -> dict[str, Measured]:
        """Of samples, by label; a DVAE and a grain run have none."""
        return getattr(self.spec, "evaluations", {})

    @property
    def images(self) -> int:
        """Images seen at the end: a whole number of steps."""
        return milestone(1.0, self.training.images, self.training.batch)

    @property
    def milestones(self) -> tuple[int, ...]:
        """Images seen when its evaluations want weights before the end, ascending."""
        batch = self.training.batch
        marks = {milestone(one.at, self.images, batch) for one in self.evaluations.values()}
        return tuple(sorted(marks - {self.images}))

    @property
    def widths(self) -> tuple[float, ...]:
        """Of the power-function averages that its evaluations want, ascending."""
        wanted = {one.weights for one in self.evaluations.values()}
        return tuple(sorted(width for width in wanted if isinstance(width, float)))

    @property
    def repeat(self) -> int | None:
        """Its place among the repeats of its experiment; None: it has no seed of its own."""
        return training_seed(self.config, self.name)

    @cached_property
    def recipe(self) -> Recipe:
        settings = asdict(self.spec)
        settings.pop("evaluations", None)
        settings["training"] = _of_training(self.training)
        settings["seed"] = self.config.seed
        if self.repeat is not None:
            settings["training_seed"] = self.repeat
        settle = _of_dvae if self.kind == "dvae" else _of_transformer
        return make_recipe(self.kind, settings, **settle(self, settings))

    @cached_property
    def digest(self) -> str:
        return digest(self.recipe)

    @cached_property
    def latents_recipe(self) -> Recipe:
        """Of a DVAE's latents, which hold every grain and serve any ratio: the ratios measured are
        not identity.
        """
        region = thresholds_recipe(self.config, self.data, self.factors[0])
        settings = {"images": self.training.images}
        return make_recipe("latents", settings, dvae=self.recipe, thresholds=region)

    @property
    def id(self) -> str:
        return f"{self.name}-{self.digest[:8]}"

    @cached_property
    def equals(self) -> list["Run"]:
        """The runs of the same recipe and length, itself among them: one training serves them all,
        e.g. `dvae` and `dvae_r70` at the main ratio 0.7. The longest name comes first: it says what
        the run is at any main ratio.
        """
        alike = [
            run
            for run in self.peers.values()
            if (run.kind, run.images) == (self.kind, self.images) and run.digest == self.digest
        ]
        return sorted(alike, key=lambda run: (-len(run.name), run.name))

    @cached_property
    def folder(self) -> Path:
        """`<experiment>-<digest8>` below runs/, of the first of its equals; what is there already
        goes on where it is.
        """
        folders = [paths.runs_folder() / run.id for run in (self, *self.equals)]
        return next((folder for folder in folders if folder.is_dir()), folders[1])

    @property
    def model(self) -> Path:
        """What is published of it."""
        return paths.model(self.config, self.name)

    @property
    def kept(self) -> Path:
        """A copy of it in git, where there is one."""
        return paths.kept(self.config, self.name)

    @property
    def latents(self) -> Path:
        """Of its DVAE: what it learns from; what a DVAE makes."""
        return paths.latents(self.config, self.dvae.name)

    @property
    def evaluation(self) -> Path:
        return paths.evaluation(self.config, self.name)


def runs_of(config: Config) -> dict[str, Run]:
    """Every run of the configuration by name, in the order of kinds."""
    runs: dict[str, Run] = {}
    for kind in KINDS:
        for name, entry in getattr(config.runs, kind).items():
            runs[name] = Run(config, name, kind, entry, runs)
    return runs


def run_of(config: Config, name: str) -> Run:
    runs = runs_of(config)
    if name not in runs:
        raise UserError(
            f"There is no experiment {name!r} at scale {config.name}{nearest(name, list(runs))}: "
            f"`d2it study{SETTINGS}` lists them."
        )
    return runs[name]


def _of_training(training: Training) -> dict[str, Any]:
    """What of a training's settings decides its weights at a given image count."""
    settings = asdict(training)
    for key in ("images", "log_images", "save_images", "checkpointing", "compile"):
        settings.pop(key)
    if settings.pop("snapshot_images"):  # how often may change, but not from never
        settings["power_averages"] = True
    return settings


def _of_dvae(run: Run, settings: dict[str, Any]) -> dict[str, Recipe]:
    """Complete the settings of a DVAE's recipe; its inputs."""
    config = run.config
    # said by the data set, or no identity
    for other in ("ratios", "thresholds", "images", "data", "n"):
        settings.pop(other)
    settings["factors"] = run.factors
    settings["model"] = asdict(config.model.dvae) | {
        "multipliers": config.model.dvae.stages(run.factors[0]),
        "latent_channels": config.model.latent_channels,
    }
    if start := settings["model"].pop("warm_start"):
        settings["model"]["warm_start"] = start["sha256"]
    settings["loss"] = asdict(config.dvae_loss)
    inputs = {"images": images_recipe(config, run.data)}
    if not is_constant(run.spec.ratio):
        inputs["thresholds"] = thresholds_recipe(config, run.data, run.factors[0])
    return inputs


def _of_transformer(run: Run, settings: dict[str, Any]) -> dict[str, Recipe]:
    """Complete the settings of a transformer's recipe; its input."""
    config = run.config
    # sampling, judging and stopping, and names: the digest of the latents says which they are
    for other in ("grain", "data", "images", "latents"):
        settings.pop(other, None)
    settings["size"] = asdict(config.model.sizes[run.spec.size])
    settings["mlp_ratio"] = config.model.mlp_ratio
    settings["diffusion"] = asdict(config.diffusion)
    if run.kind == "content":
        settings["window"] = config.model.window
        if not settings["fine_only"]:  # younger than some digests
            settings.pop("fine_only")
    return {"latents": run.dvae.latents_recipe}
