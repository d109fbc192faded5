"""A trained run as a folder that stands alone: no study, no latents, no images are needed to draw.

FOLDER/
    network.safetensors  the content transformer or DiT
    dvae.safetensors     the DVAE's decoder: nothing is drawn with its encoder
    grain.safetensors    the grain transformer, where maps are predicted
    pipeline.json        architectures, scales, settings, sha256 of each file: see header.py
    README.md            the model card
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2it.config import paths
from d2it.config.experiments import Measured
from d2it.config.recipe import sampling_recipe
from d2it.config.run import Run
from d2it.images.packed import read_manifest
from d2it.machine.device import choose_device
from d2it.models.store import read_model
from d2it.sampling.exported import check_free, write_folder
from d2it.sampling.header import FORMAT, VERSION
from d2it.sampling.model_card import card
from d2it.sampling.pipeline import Part
from d2it.sampling.trained_run import RunPipeline


def export(run: Run, folder: Path, measured: Measured) -> None:
    """Write the folder of a run, at once."""
    check_free(folder)
    pipeline = RunPipeline(run, measured, choose_device())
    images = read_manifest(paths.images(run.config, run.data))
    used = {"network": (run, pipeline.network), "dvae": (run.dvae, pipeline.dvae)}
    if pipeline.maps.grain and run.grain:
        used["grain"] = (run.grain, pipeline.maps.grain)
    header = describe(pipeline, run.name, images["classes"])
    header["networks"] = {name: trained_part(*pair) for name, pair in used.items()}
    parts = {name: part for name, (_, part) in used.items()}
    write_folder(folder, header, parts, card(run.config, header, images))


def describe(pipeline: RunPipeline, run: str, classes: list[str]) -> dict[str, Any]:
    """All of the header that says how images are drawn."""
    maps, config = pipeline.maps, pipeline.config
    quantiles = maps.latents.quantiles
    return {
        "format": FORMAT,
        "version": VERSION,
        "scale": config.name,
        "run": run,
        "kind": pipeline.kind,
        "ratio": maps.ratio,
        "learned": maps.learned,
        # of the entropies (nats) between grains: what the training's own maps were made by
        "cuts": [str(cut) for cut in maps.latents.cuts(maps.ratio)],
        "quantiles": None if quantiles is None else quantiles.tolist(),
        "sigma": config.sigma,
        "bins": config.bins,
        "grey_range": list(config.grey_range),
        "regions": maps.side,
        "latent_scale": pipeline.scale,
        "classes": classes if pipeline.network.architecture["classes"] else [],
        "diffusion": asdict(pipeline.diffusion),
        "sampling": sampling_recipe(pipeline.sampling),
        "guidance": pipeline.guidance,
        "weights": pipeline.measured.weights,
        "protocol": pipeline.protocol,
    }


def trained_part(run: Run, part: Part) -> dict[str, Any]:
    model = read_model(run.model)
    kept = ("kind", "architecture", "images", "batch", "recipe_digest")
    return {"run": run.name, "sha256": part.sha256} | {key: model[key] for key in kept}
