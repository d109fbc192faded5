"""Trained models on disk: weights in safetensors, everything else in model.json. No pickle.

results/<scale>/models/<run>/
    model.safetensors               averaged weights (EMA)
    raw.safetensors                 weights as optimised
    milestone-<images>.safetensors  averaged weights after so many images
    width-<width>.safetensors       power-function average of this relative width
    model.json                      kind, architecture, recipe, inputs, sha256 of each weights file
    manifest.json                   size and sha256 of every file: what workflows track
"""

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from d2it.clock import milestone
from d2it.config.documents import conform
from d2it.config.run import Run
from d2it.errors import SETTINGS, UserError
from d2it.files import (
    FOLDER,
    MANIFEST,
    File,
    atomic_folder,
    canonical_digest,
    file_digest,
    folder_files,
    read_format,
    save_by_umask,
    write_format,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT, VERSION = "d2it-model", 1

# Imported only when asked for: reading a header needs no network.
BUILDERS = {
    "dvae": "d2it.models.dvae:Dvae",
    "grain": "d2it.models.grain_transformer:GrainTransformer",
    "content": "d2it.models.content_transformer:ContentTransformer",
    "dit": "d2it.models.dit:DiT",
}


class Header(TypedDict):
    """What model.json says at least."""

    kind: str
    architecture: dict[str, Any]
    recipe: dict[str, Any]
    recipe_digest: str
    images: int
    batch: int
    inputs: dict[str, str]
    extra: dict[str, Any]
    files: dict[str, File]


def save_model(
    folder: Path | str,
    kind: str,
    architecture: dict[str, Any],
    recipe: dict[str, Any],
    images: int,
    batch: int,
    inputs: dict[str, str],
    weights: Mapping[str, "Mapping[str, Tensor] | Path"],
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a model folder at once: `weights` maps a file's stem to a state dict or to a file."""
    with atomic_folder(folder) as temporary:
        for stem, source in weights.items():
            target = temporary / f"{stem}.safetensors"
            if isinstance(source, Path):
                shutil.copyfile(source, target)
            else:
                save_tensors(source, target)
        files = folder_files(temporary)
        header = {
            "kind": kind,
            "architecture": architecture,
            "recipe": recipe,
            "recipe_digest": canonical_digest(recipe),
            "images": images,
            "batch": batch,
            "inputs": inputs,
            "extra": extra or {},
            "files": files,
        }
        path = temporary / "model.json"
        write_format(path, FORMAT, VERSION, header)
        files = files | {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}}
        write_manifest(temporary, files)


def write_manifest(folder: Path, files: dict[str, File]) -> None:
    write_format(folder / MANIFEST, *FOLDER, {"files": files})


def save_tensors(state: "Mapping[str, Tensor]", path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_by_umask(save_file, tensors, path)


def read_model(folder: Path | str) -> dict[str, Any]:
    """The header of a model: everything but its weights."""
    path = Path(folder) / "model.json"
    made_by = f"d2it train {path.parent.name}"
    header = read_format(path, FORMAT, VERSION, made_by=made_by)
    conform(Header, header, path, made_by)
    return header


def width_name(width: float) -> str:
    """The stem of the file with the power-function average of this relative width."""
    return f"width-{width:g}"


def weights_name(header: dict[str, Any], at: float = 1.0, weights: str | float = "ema") -> str:
    """The stem of the file with the "ema" or "raw" weights, or those of a relative width, after the
    share `at` of the training.
    """
    images = milestone(at, header["images"], header["batch"])
    if images == header["images"]:
        if isinstance(weights, float):
            stem = width_name(weights)
            if f"{stem}.safetensors" not in header["files"]:
                raise UserError(
                    f"No average of relative width {weights:g} was published: give it as `weights` "
                    f"of an evaluation of the run, and repeat `d2it train{SETTINGS}`."
                )
            return stem
        return "model" if weights == "ema" else "raw"
    if weights != "ema":
        raise UserError(
            f"Raw weights are kept at the end of a run only, not at {at} of it: set weights to ema."
        )
    return f"milestone-{images}"


def load_weights(folder: Path | str, weights: str = "model") -> "dict[str, Tensor]":
    """The state dict in `<weights>.safetensors`, checked by its sha256."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, again = Path(folder) / f"{weights}.safetensors", _again(folder)
    recorded = read_model(folder)["files"].get(path.name)
    if recorded is None or not path.is_file():
        raise UserError(f"{path} is missing: {again}.")
    if file_digest(path) != recorded["sha256"]:
        raise UserError(f"{path} is damaged (its sha256 is not the recorded one): {again}.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): {again}.") from None


def load_model(folder: Path | str, weights: str = "model") -> "nn.Module":
    """The network with the weights of `<weights>.safetensors`: on the CPU, frozen, evaluating."""
    header = read_model(folder)
    network = empty_network(header["kind"], header["architecture"])
    fill(network, load_weights(folder, weights), f"The weights in {folder}", _again(folder))
    return network.eval().requires_grad_(False)


def _again(folder: Path | str) -> str:
    return f"make it again with `d2it train {Path(folder).name}{SETTINGS}`"


def empty_network(kind: str, architecture: dict[str, Any]) -> "nn.Module":
    module, name = BUILDERS[kind].split(":")
    network: nn.Module = getattr(importlib.import_module(module), name)(**architecture)
    return network


def fill(network: "nn.Module", state: "Mapping[str, Tensor]", what: str, remedy: str) -> None:
    """`load_state_dict`, or one sentence that names the first tensor that does not fit."""
    ours = network.state_dict()
    for name in [*ours, *state]:
        given, needed = (list(s[name].shape) if name in s else "missing" for s in (state, ours))
        if given != needed:
            raise UserError(
                f"{what} do not fit: {name} is {given} there, and {needed} in this network: "
                f"{remedy}."
            )
    network.load_state_dict(state)


def trained(run: Run) -> dict[str, Any]:
    """The header of the model that `run` was trained to, by the settings that it has now."""
    header = read_model(run.model)
    if header["recipe_digest"] != run.digest:
        raise UserError(
            f"{run.model} was trained with other settings than {run.name} has now: "
            f"run `d2it train {run.name}{SETTINGS}`."
        )
    return header
