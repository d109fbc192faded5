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
from d2it.errors import UserError
from d2it.files import atomic_folder, folder_files, require_space, write_json
from d2it.images.packed import read_manifest
from d2it.machine.device import Device, choose_device
from d2it.models.store import read_model, save_tensors
from d2it.sampling.fits import drawn_with, read_network
from d2it.sampling.header import FORMAT, HEADER, VERSION, Header, digest_of, parsed, read_header
from d2it.sampling.model_card import card
from d2it.sampling.pipeline import GrainMaps, Part, Pipeline, schedule_of
from d2it.sampling.trained_run import RunPipeline


def export(run: Run, folder: Path, measured: Measured) -> None:
    """Write the folder of a run, at once."""
    if folder.exists() and not is_pipeline(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else: name a new folder.")
    pipeline = RunPipeline(run, measured, choose_device())
    images = read_manifest(paths.images(run.config, run.data))
    used = {"network": (run, pipeline.network), "dvae": (run.dvae, pipeline.dvae)}
    if pipeline.maps.grain and run.grain:
        used["grain"] = (run.grain, pipeline.maps.grain)
    header = describe(pipeline, run.name, images["classes"])
    header["networks"] = {name: trained_part(*pair) for name, pair in used.items()}
    weights = {name: drawn_with(part.network.state_dict()) for name, (_, part) in used.items()}
    require_space(folder, sum(t.nbytes for state in weights.values() for t in state.values()))
    with atomic_folder(folder) as temporary:
        for name, state in weights.items():
            save_tensors(state, temporary / f"{name}.safetensors")
        header["files"] = folder_files(temporary)
        header["digest"] = digest_of(header)
        parsed(header)  # what could not be read is not written
        write_json(temporary / HEADER, header)
        (temporary / "README.md").write_text(card(run.config, header, images), encoding="utf-8")


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


def is_pipeline(folder: Path) -> bool:
    return (folder / HEADER).is_file()


def load(folder: Path | str) -> Pipeline:
    """The networks of an exported folder, each held to its description before it is opened."""
    folder, device = Path(folder), choose_device()
    again = "export or copy the folder again"
    header = read_header(folder, again)
    parts = {name: _part(folder, header, name, device, again) for name in header.networks}
    maps = GrainMaps(
        header.regions,
        header.ratio,
        header.learnt,
        parts.get("grain"),
        header.sampling.grain_steps,
        schedule_of(header.diffusion),
        device,
    )
    return Pipeline(
        header.kind,
        parts["network"],
        parts["dvae"],
        maps,
        header.latent_scale,
        header.sampling,
        header.diffusion,
        header.guidance,
        header.classes,
        header.protocol,
    )


def _part(folder: Path, header: Header, name: str, device: Device, again: str) -> Part:
    entry, file = header.networks[name], header.files[f"{name}.safetensors"]
    path = folder / f"{name}.safetensors"
    network = read_network(entry.kind, entry.architecture, path, file.bytes, file.sha256, again).to(
        device
    )
    return Part(network, entry.architecture, entry.images, entry.sha256 or file.sha256)
