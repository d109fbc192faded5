"""A whole study in small, without training: real images, thresholds, latents and reference, made by
the project's own stages, and networks with random weights."""

import importlib
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from d2it.config import Config, load, paths
from d2it.config.run import run_of
from d2it.evaluation.reference import make_reference
from d2it.grains.calibrate import calibrate
from d2it.images.packed import open_images
from d2it.images.prepare import prepare
from d2it.latents.encode import encode
from d2it.models.architecture import architecture
from d2it.models.inception import Inception
from d2it.models.store import BUILDERS, save_model

WEIGHTS = Path(__file__).parents[1] / "data" / "weights"
ON_PHOTOS = [  # networks of classes too
    "task.conditional=photos",
    "first_stage.classes=dvae",
    "first_stage.classes_r100=dvae",
]
FEW_PHOTOS = [  # four of each to learn from, one held out
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=7",
    "data.photos.reference=7",
    *ON_PHOTOS,
]
SHALLOW = [f"model.sizes.{size}.depth=3" for size in ("S", "B", "L", "XL")]
IMAGES, BATCH = 64, 8  # what the networks claim to have been trained on
STEMS = ("model", "raw", f"milestone-{IMAGES // 4}", f"milestone-{IMAGES // 2}")
OVERRIDES = [
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=16",
    "data.photos.reference=8",
    "sampling.steps=2",
    "sampling.grain_steps=2",
    "sampling.block=4",
    "evaluation.n=8",
    "runs.dvae.dvae.ratios=[0.0,0.5,1.0,random]",
    *ON_PHOTOS,
    *SHALLOW,
]


def build_world(runs: list[str]) -> Config:
    """Everything that evaluating `runs` needs, in the working directory."""
    config = load(overrides=OVERRIDES)
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    for seed, run in enumerate(["dvae", *runs]):
        save_random(config, run, seed)
    encode(run_of(config, "dvae"))
    make_reference(config, "photos")
    return config


def save_random(config: Config, run: str, seed: int) -> None:
    """Publish the model `run` with random weights, away from a new network's zeros."""
    kind, shape = run_of(config, run).kind, architecture(run_of(config, run))
    module, name = BUILDERS[kind].split(":")
    torch.manual_seed(seed)
    state = getattr(importlib.import_module(module), name)(**shape).state_dict()
    weights = {
        stem: {key: value + 0.05 * torch.randn(value.shape) for key, value in state.items()}
        for stem in STEMS
    }
    inputs = {"images": open_images(config, run_of(config, run).data, "train").digest}
    recipe = run_of(config, run).recipe
    save_model(paths.model(config, run), kind, shape, recipe, IMAGES, BATCH, inputs, weights)


def enter(folder: Path, patch: pytest.MonkeyPatch, block: int = 8) -> None:
    """Work in `folder` with the weights that the repository has fetched.

    Features of eight images are no more work than these; not to the bit those of processes that
    keep the usual `block` of 16.
    """
    torch.set_num_threads(1)
    patch.setattr("d2it.models.inception.BLOCK", block)
    patch.chdir(folder)
    patch.setenv("D2IT_WEIGHTS", str(WEIGHTS))
    patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")  # also where there is a GPU
    patch.delenv("D2IT_RUNS", raising=False)
    for module in (
        "evaluation.any_images",
        "evaluation.measure",
        "evaluation.reference",
        "sampling.write",
    ):
        patch.setattr(f"d2it.{module}.Inception", remembered)


@cache
def remembered(protocol: str, device: torch.device | str = "cpu") -> Inception:
    """The network of a protocol, through which no block of images goes twice: it is slow."""
    network = Inception(protocol, device)
    through, known = network._block, dict[bytes, tuple[torch.Tensor, torch.Tensor]]()

    def block(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key = sha256(images.numpy().tobytes()).digest()
        if key not in known:
            known[key] = through(images)
        return known[key]

    network._block = block
    return network
