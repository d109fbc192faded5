"""Recipes: all that decides the numbers of a stage, known before anything runs.

A recipe holds the settings of its own stage and the digests of its inputs' recipes, so the DVAE's
does not see the transformers' settings. Those of runs are in d2it/config/run.py.
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2it.config.listed import listed
from d2it.config.paths import in_repository
from d2it.config.ratios import shares
from d2it.config.schema import Config, Sampling
from d2it.config.types import Learned
from d2it.files import canonical_digest, file_digest

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
    "second_protocol",
    "images",
    "smallest",
    "damaged",
    "origin",
    "shown_as",
    "licence",
    "citation",
)
KINDS = ("dvae", "grain", "content", "dit")

Recipe = dict[str, Any]


def digest(recipe: Recipe) -> str:
    return canonical_digest(recipe)


def ratio_key(ratio: Learned) -> str:
    """How a ratio is spelt in keys and labels: "0", "0.5", "1"; "0.2,0.3" for three grains."""
    return ratio if isinstance(ratio, str) else ",".join(f"{share:g}" for share in shares(ratio))


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
    return make_recipe(
        "images",
        {"dataset": dataset, "seed": config.seed},
        sources=_source_digests(dataset["source"]),
    )


def thresholds_recipe(config: Config, data: str, region: int) -> Recipe:
    """Of the quantiles that rule a data set, for regions of one size."""
    settings: dict[str, Any] = {
        "region": region,
        "sigma": config.sigma,
        "bins": config.bins,
        "quantiles": config.quantiles,
    }
    if config.grey_range != (-1, 1):  # younger than some digests
        settings["grey_range"] = list(config.grey_range)
    source = thresholds_source(config, data)
    return make_recipe("thresholds", settings, images=images_recipe(config, source))


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


def make_recipe(
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
    """sha256 of the files in data/sources.csv that belong to a data set, and of emoji's table."""
    with open(sources_table(), encoding="utf-8", newline="") as file:
        found = {
            row["name"]: row["sha256"] for row in csv.DictReader(file) if row["group"] == source
        }
    return found | ({"table": file_digest(emoji_table())} if source == "emoji" else {})


def sources_table() -> Path:
    return in_repository("data/sources.csv")


def emoji_table() -> Path:
    """Which emoji are trained on, and which are held out."""
    return listed("data/emoji.csv")
