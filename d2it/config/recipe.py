"""Recipes: all that decides the numbers of a stage, known before anything runs.

Their digests name run folders. A recipe holds the settings of its own stage and the digests of its
inputs' recipes, so the DVAE's does not see the transformers' settings. Lengths of training are
not in it: with a constant rate a longer run extends a shorter one.
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2it.config.ratios import is_constant, shares
from d2it.config.schema import Config, Ratio, Sampling, Training
from d2it.config.typed import nearest
from d2it.errors import UserError
from d2it.files import canonical_digest

# Raised when a change of code changes the numbers of a stage.
VERSIONS = {
    "images": 1,
    "thresholds": 1,
    "dvae": 1,
    "latents": 1,
    "grain": 1,
    "content": 1,
    "dit": 1,
    "evaluation": 2,
}
# What of a data set decides whether its images are taken and what is done with them.
ASIDE = (
    "thresholds_from",
    "reference",
    "protocol",
    "images",
    "smallest",
    "damaged",
    "origin",
    "licence",
    "citation",
)
KINDS = ("dvae", "grain", "content", "dit")

Recipe = dict[str, Any]


def kind_of(config: Config, run: str) -> str:
    """Which kind of network the run `run` trains."""
    for kind in KINDS:
        if run in getattr(config.runs, kind):
            return kind
    names = [name for kind in KINDS for name in getattr(config.runs, kind)]
    raise UserError(
        f"There is no experiment {run!r} at scale {config.name}{nearest(run, names)}: "
        "`d2it study` lists them."
    )


def data_of(config: Config, run: str) -> str:
    """The data set that the run `run` is compared with."""
    spec = getattr(config.runs, kind_of(config, run))[run]
    data: str | None = getattr(spec, "data", None)
    return data or config.runs.dvae[spec.latents].data


def digest(recipe: Recipe) -> str:
    return canonical_digest(recipe)


def run_name(config: Config, run: str) -> str:
    """`<experiment>-<digest8>`: the run's folder below runs/."""
    return f"{run}-{digest(run_recipe(config, run))[:8]}"


def ratio_key(ratio: Ratio) -> str:
    """How a ratio is spelt in keys and labels: "0", "0.5", "1"; "0.2,0.3" for three grains."""
    return ",".join(f"{share:g}" for share in shares(ratio))


def factors_of(config: Config, dvae: str) -> list[int]:
    """Downsampling factors of a DVAE run, coarse to fine; a region is as large as the first."""
    return list(config.runs.dvae[dvae].factors or config.model.factors)


def images_recipe(config: Config, data: str) -> Recipe:
    dataset = asdict(config.data[data])
    for aside in ASIDE:
        dataset.pop(aside)
    for key, usual in (("read", "shown"), ("held_out", "random")):  # younger than some digests
        if dataset[key] == usual:
            dataset.pop(key)
    return _recipe(
        "images",
        {"dataset": dataset, "seed": config.seed},
        sources=_source_digests(dataset["source"]),
    )


def thresholds_recipe(config: Config, dvae: str) -> Recipe:
    """Of the quantiles of the region size of a DVAE run alone."""
    settings = {
        "region": factors_of(config, dvae)[0],
        "sigma": config.sigma,
        "bins": config.bins,
        "quantiles": config.quantiles,
    }
    source = thresholds_source(config, config.runs.dvae[dvae].data)
    return _recipe("thresholds", settings, images=images_recipe(config, source))


def thresholds_source(config: Config, data: str) -> str:
    """The data set whose entropy quantiles rule `data` (the paper used ImageNet's for all)."""
    return config.data[data].thresholds_from or data


def regions_of(config: Config, data: str) -> list[int]:
    """The region sizes whose entropy is measured on `data`: those of the DVAEs that it rules."""
    sizes = {
        factors_of(config, name)[0]
        for name, run in config.runs.dvae.items()
        if thresholds_source(config, run.data) == data
    }
    return sorted(sizes or {config.model.factors[0]})


def run_recipe(config: Config, run: str) -> Recipe:
    """The recipe of a training run of any kind."""
    kind = kind_of(config, run)
    settings = asdict(getattr(config.runs, kind)[run])
    settings.pop("evaluations", None)
    settings["training"] = _training(getattr(config.training, kind))
    settings["seed"] = config.seed
    if (repeat := training_seed(config, run)) is not None:
        settings["training_seed"] = repeat
    if kind == "dvae":
        settings.pop("ratios")
        settings.pop("thresholds")  # said by the data set
        settings.pop("images")
        data = settings.pop("data")
        settings["factors"] = factors_of(config, run)
        settings["model"] = asdict(config.model.dvae) | {
            "multipliers": config.model.dvae.stages(settings["factors"][0]),
            "latent_channels": config.model.latent_channels,
        }
        if start := settings["model"].pop("warm_start"):
            settings["model"]["warm_start"] = start["sha256"]
        settings["loss"] = asdict(config.dvae_loss)
        inputs = {"images": images_recipe(config, data)}
        if settings["ratio"] == "random" or not is_constant(settings["ratio"]):
            inputs["thresholds"] = thresholds_recipe(config, run)
        return _recipe("dvae", settings, **inputs)
    inputs = {"latents": latents_recipe(config, settings.pop("latents"))}
    for later in ("grain", "data", "images"):  # they serve sampling, judging and stopping
        settings.pop(later, None)
    size = settings.pop("size")
    settings["size"] = asdict(config.model.sizes[size])
    settings["mlp_ratio"] = config.model.mlp_ratio
    settings["diffusion"] = asdict(config.diffusion)
    if kind == "content":
        settings["window"] = config.model.window
    return _recipe(kind, settings, **inputs)


def sampling_recipe(sampling: Sampling) -> Recipe:
    settings = asdict(sampling)
    for key in ("precision", "compile"):
        settings.pop(key)
    return settings | precision_recipe(sampling)


def precision_recipe(sampling: Sampling) -> Recipe:
    """Nothing for fp32: all was drawn in it, and not said, before there was a choice."""
    return {} if sampling.precision == "fp32" else {"precision": sampling.precision}


def training_seed(config: Config, run: str) -> int | None:
    """The place of `run` among the repeats of its experiment; None: it has no seed of its own."""
    experiment, _, seed = run.rpartition("_s")
    if experiment in config.repeats and seed.isdecimal():
        return int(seed)
    return 0 if run in config.repeats else None


def repeats_of(config: Config, experiment: str) -> list[str]:
    """The runs of an experiment, by training seed; itself alone where it is not repeated."""
    others = range(1, config.repeats.get(experiment, 1))
    return [experiment, *(f"{experiment}_s{seed}" for seed in others)]


def training_images(config: Config, run: str) -> int:
    """How many images the run `run` is trained on: its own length, or that of its kind."""
    kind = kind_of(config, run)
    own = getattr(getattr(config.runs, kind)[run], "images", None)
    return int(own or getattr(config.training, kind).images)


def latents_recipe(config: Config, dvae: str) -> Recipe:
    """Latents hold every grain and serve any ratio: the ratios measured are not identity."""
    inputs = {"dvae": run_recipe(config, dvae), "thresholds": thresholds_recipe(config, dvae)}
    return _recipe("latents", {"images": training_images(config, dvae)}, **inputs)


def _training(training: Training) -> dict[str, Any]:
    """What of a training's settings decides its weights at a given image count."""
    settings = asdict(training)
    for key in ("images", "log_images", "save_images", "checkpointing", "compile"):
        settings.pop(key)
    if settings.pop("snapshot_images"):  # how often may change, but not from never
        settings["power_averages"] = True
    return settings


def _recipe(
    stage: str, settings: dict[str, Any], sources: dict[str, str] | None = None, **inputs: Recipe
) -> Recipe:
    return {
        "stage": stage,
        "version": VERSIONS[stage],
        "settings": settings,
        "inputs": {name: digest(recipe) for name, recipe in inputs.items()},
        "sources": sources or {},
    }


def _source_digests(source: str) -> dict[str, str]:
    """sha256 of the files in data/sources.csv that belong to a data set."""
    with open(sources_table(), newline="") as file:
        return {
            row["name"]: row["sha256"] for row in csv.DictReader(file) if row["group"] == source
        }


def sources_table() -> Path:
    for folder in (Path.cwd() / "data", Path(__file__).parents[2] / "data"):
        if (folder / "sources.csv").is_file():
            return folder / "sources.csv"
    raise UserError("data/sources.csv was not found: run d2it from the root of the repository.")
