"""What the evaluations of one run share, and the memory that lets a killed one go on."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from safetensors.numpy import load_file, save_file

from d2it.config import Config, paths
from d2it.config.documents import conform, told
from d2it.config.protocols import asked
from d2it.config.recipe import VERSIONS, digest
from d2it.config.run import Run
from d2it.evaluation.metrics import Gaussian
from d2it.evaluation.neighbours import nearest_distance
from d2it.evaluation.reference import (
    Reference,
    cached_reference,
    held_out_features,
    open_reference,
    pictures_of,
)
from d2it.files import atomic_folder, is_intact, read_json, save_by_umask, seal_folder, write_json
from d2it.machine.device import choose_device, device_name
from d2it.models.inception import Inception
from d2it.sampling.pipeline import Drawn
from d2it.sources.table import find_source

PICTURES = 16  # of an evaluation, kept for the gallery


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation."""

    metrics: dict[str, float]
    spread: dict[str, float | None]  # standard deviation over seeds
    recipe: dict[str, Any]
    pictures: Drawn  # the first few
    devices: list[str] = field(default_factory=list)  # that its units were computed on
    seconds: float | None = None  # with its units, a process each; 0: not known; None: it has none

    @property
    def entry(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "spread": self.spread, "recipe": self.recipe}


class Entry(TypedDict):
    """evaluation.json of a run folder."""

    metrics: dict[str, float]
    spread: dict[str, float | None]
    recipe: dict[str, Any]


class Evaluator:
    """The feature extractor and the reference of one run, loaded when first needed."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.device = choose_device()
        self.noise_errors: dict[tuple[str, str], dict[str, float]] = {}  # by weights and ratio

    @property
    def config(self) -> Config:
        return self.run.config

    @cached_property
    def extractor(self) -> Inception:
        return Inception(self.run.dataset.protocol, self.device)

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the metrics compare: `features` (N, 2048), `spatial` (N, 2023) for sFID alone, and
        `second` (N, 2048) of the data set's second protocol.

        The first image is at a multiple of 16 in its series.
        """
        found = self.extractor.both(images)
        wanted = found if "sfid" in self.metrics else {"features": found["features"]}
        if self.second is None:
            return wanted
        return wanted | {"second": self.second_extractor.both(images)["features"]}

    @property
    def second(self) -> str | None:
        """The protocol whose FID stands beside."""
        return self.run.dataset.second_protocol

    @cached_property
    def second_extractor(self) -> Inception:
        return Inception(str(self.second), self.device)

    @cached_property
    def second_reference(self) -> Gaussian:
        pictures = pictures_of(self.config, self.run.data)
        return cached_reference(pictures, str(self.second), spatial=False).gaussian

    @property
    def metrics(self) -> list[str]:
        """The names of what is measured of samples."""
        return asked(self.config, self.run.data)

    @cached_property
    def reference(self) -> Reference:
        return open_reference(self.config, self.run.data)

    @cached_property
    def held_out_distance(self) -> float:
        """How far images that were not trained on are from the nearest one that was."""
        n = self.config.evaluation.n
        return nearest_distance(
            held_out_features(self.config, self.run.data, n), self.reference.features, self.device
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """The part of a recipe that says how features are made and which network makes them."""
        return {
            "version": VERSIONS["evaluation"],
            "protocol": self.run.dataset.protocol,
            "inception_sha256": find_source("inception").sha256,
        }

    def folder(self, label: str, recipe: dict[str, Any]) -> Path:
        """Of a finished evaluation."""
        return self.run.folder / "evaluations" / f"{label}-{digest(recipe)[:8]}"

    def is_known(self, label: str, recipe: dict[str, Any]) -> bool:
        folder = self.folder(label, recipe)
        if not folder.exists() or is_intact(folder):
            return (folder / "evaluation.json").exists()
        warnings.warn(f"{folder} is damaged: it is made again.", stacklevel=3)
        return False

    def remember(
        self, label: str, recipe: dict[str, Any], compute: Callable[[], Evaluated]
    ) -> Evaluated:
        """The evaluation `label`, from the run folder where it was finished before; one that is
        damaged there is made again.
        """
        folder = self.folder(label, recipe)
        if not self.is_known(label, recipe):
            began = time.monotonic()
            done = compute()
            seconds = time.monotonic() - began if done.seconds is None else done.seconds
            with atomic_folder(folder) as temporary:
                arrays = {name: np.ascontiguousarray(a) for name, a in vars(done.pictures).items()}
                save_by_umask(save_file, arrays, temporary / "pictures.safetensors")
                write_json(temporary / "evaluation.json", done.entry)
                devices = sorted({*done.devices, device_name(self.device)})
                write_json(temporary / "devices.json", devices)
                seal_folder(temporary)  # without the seconds: made again, the same bytes
                write_json(paths.took(temporary), {"seconds": round(seconds, 3)})
        made_by = f"d2it evaluate {self.run.name}"
        kept = folder / "evaluation.json"
        entry = conform(Entry, read_json(kept, made_by=made_by), kept, made_by)
        pictures = Drawn(**load_file(folder / "pictures.safetensors"))
        devices = told(list[str], folder / "devices.json") or []  # none from before it was
        return Evaluated(**entry, pictures=pictures, devices=devices)
