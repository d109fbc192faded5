"""A trained run as a folder that stands alone: no study, no latents, no images are needed to draw.

FOLDER/
    network.safetensors  the content transformer or DiT
    dvae.safetensors     its decoder
    grain.safetensors    the grain transformer, where maps are predicted
    pipeline.json        architectures, scales, settings, sha256 of each file
    README.md            the model card
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2it.config import paths
from d2it.config.experiments import Measured
from d2it.config.recipe import sampling_recipe
from d2it.config.run import Run
from d2it.config.schema import Diffusion, Sampling
from d2it.config.typed import build
from d2it.errors import UserError
from d2it.files import atomic_folder, folder_files, read_format, require_space, write_json
from d2it.images.packed import read_manifest
from d2it.machine.device import choose_device
from d2it.models.store import empty_network, fill, read_model, read_tensors, weights_name
from d2it.sampling.model_card import card
from d2it.sampling.pipeline import GrainMaps, Part, Pipeline, schedule_of
from d2it.sampling.trained_run import RunPipeline

FORMAT, VERSION = "d2it-pipeline", 2
HEADER = "pipeline.json"


def export(run: Run, folder: Path, measured: Measured) -> None:
    """Write the folder of a run, at once."""
    if folder.exists() and not is_pipeline(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else: name a new folder.")
    pipeline = RunPipeline(run, measured, choose_device())
    images = read_manifest(paths.images(run.config, run.data))
    used = {
        "network": (run, weights_name(read_model(run.model), 1.0, measured.weights)),
        "dvae": (run.dvae, "model"),
    }
    if pipeline.maps.grain and run.grain:
        used["grain"] = (run.grain, "model")
    sources = {n: used_run.model / f"{stem}.safetensors" for n, (used_run, stem) in used.items()}
    require_space(folder, sum(path.stat().st_size for path in sources.values()))
    header = describe(pipeline, run.name, images["classes"])
    header["networks"] = {
        name: network(read_model(source.model), source.name) for name, (source, _) in used.items()
    }
    with atomic_folder(folder) as temporary:
        for name, source in sources.items():
            shutil.copyfile(source, temporary / f"{name}.safetensors")
        header["files"] = folder_files(temporary)
        write_json(temporary / HEADER, header)
        (temporary / "README.md").write_text(card(run.config, header, images), encoding="utf-8")


def describe(pipeline: RunPipeline, run: str, classes: list[str]) -> dict[str, Any]:
    """All of the header that says how images are drawn."""
    maps, config = pipeline.maps, pipeline.config
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


def network(model: dict[str, Any], run: str) -> dict[str, Any]:
    kept = ("kind", "architecture", "images", "batch", "recipe_digest")
    return {"run": run} | {key: model[key] for key in kept}


def is_pipeline(folder: Path) -> bool:
    return (folder / HEADER).is_file()


def load(folder: Path | str) -> Pipeline:
    """The networks of an exported folder, each file checked by its sha256."""
    folder, device = Path(folder), choose_device()
    again = f"d2it export RUN --out {folder}"
    header = read_format(folder / HEADER, FORMAT, VERSION, made_by=again)
    parts = {name: _part(folder, header, name, device) for name in header["networks"]}
    sampling = build(Sampling, header["sampling"], "sampling")
    diffusion = build(Diffusion, header["diffusion"], "diffusion")
    maps = GrainMaps(
        header["regions"],
        header["ratio"],
        header.get("learned", header["ratio"]),  # younger than some folders
        parts.get("grain"),
        sampling.grain_steps,
        schedule_of(diffusion),
        device,
    )
    return Pipeline(
        header["kind"],
        parts["network"],
        parts["dvae"],
        maps,
        header["latent_scale"],
        sampling,
        diffusion,
        header["guidance"],
        header["classes"],
        header["protocol"],
    )


def _part(folder: Path, header: dict[str, Any], name: str, device: Any) -> Part:
    entry, file = header["networks"][name], f"{name}.safetensors"
    sha256 = header["files"][file]["sha256"]
    again = "export or copy the folder again"
    network = empty_network(entry["kind"], entry["architecture"])
    fill(network, read_tensors(folder / file, sha256, again), f"The weights in {folder}", again)
    network = network.eval().requires_grad_(False).to(device)
    return Part(network, entry["architecture"], entry["images"], sha256)
