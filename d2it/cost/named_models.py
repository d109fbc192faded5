"""The named models at 256 px: their architectures, costs, and what was published of them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from d2it.config.experiments import LETTER, PLAIN
from d2it.config.load import params_folder, read_typed
from d2it.config.published import published
from d2it.config.schema import Model
from d2it.cost.macs import gmacs, parameters
from d2it.models.architecture import PATCH, dvae_arguments, split_layers

SIZE, CLASSES = 256, 1000  # the printed sizes are ImageNet's
SPLIT = (10, 2)


@cache
def named_models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> kind and constructor arguments."""
    model = read_typed(Model, params_folder() / "model" / "paper256.yaml", "model")
    models: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, size in model.sizes.items():
        shape = _latents(model) | {"patch": PATCH, **vars(size), "classes": CLASSES}
        models[f"DiT-{name}"] = ("dit", shape)
    two, three = model.factors, model.factors_three
    for name in ("B", "L", "XL"):
        models[f"D²iT-{name}"] = ("content", _content(model, name, two))
        models[f"D²iT-{name} plain"] = ("content", _content(model, name, two, PLAIN))
    models["Dynamic Grain Transformer"] = ("grain", _grain(model, two))
    models["DVAE {16, 8}"] = ("dvae", dvae_arguments(model, two, SIZE))
    models["VAE f = 8"] = ("dvae", dvae_arguments(model, [8], SIZE))
    models["VAE f = 16"] = ("dvae", dvae_arguments(model, [16], SIZE))
    # beyond the paper
    for name in ("B", "L", "XL"):
        models[f"D²iT-{name} {{32, 16, 8}}"] = ("content", _content(model, name, three))
    models["Dynamic Grain Transformer {32, 16, 8}"] = ("grain", _grain(model, three))
    models["DVAE {32, 16, 8}"] = ("dvae", dvae_arguments(model, three, SIZE))
    return models


def _latents(model: Model) -> dict[str, Any]:
    return {"side": SIZE // model.factors[-1], "channels": model.latent_channels}


def _grain(model: Model, factors: list[int]) -> dict[str, Any]:
    grains = {"side": SIZE // factors[0], "grains": len(factors), "classes": CLASSES}
    return grains | vars(model.sizes["S"])


def _content(
    model: Model, name: str, factors: list[int], design: dict[str, Any] = LETTER
) -> dict[str, Any]:
    size = model.sizes[name]
    return _latents(model) | {
        "grains": len(factors),
        "width": size.width,
        "heads": size.heads,
        "layers": split_layers(size.depth, SPLIT),
        "window": model.window,
        "classes": CLASSES,
        "heads_out": design["heads"],
        "bias": design["bias"],
        "fine_only": design["fine_only"],
    }


def models_table() -> list[dict[str, Any]]:
    """One row per named model; parameters in millions, GMACs of one forward pass."""
    printed = {row["model"]: row for row in published("models")}
    rows = []
    for name, (kind, architecture) in named_models().items():
        count, macs = parameters(kind, architecture), gmacs(kind, architecture)
        beside = printed.get(name, {})
        rows.append(
            {
                "model": name,
                "split": _split(**architecture),
                "trainable": count["trainable"] / 1e6,
                "total": count["total"] / 1e6,
                "published_parameters": _number(beside.get("parameters")),
                "gmacs_dense": macs["dense"],
                "gmacs_half_fine": macs["sparse"],
                "published_gmacs": _number(beside.get("gmacs")),
            }
        )
    return rows


def _split(layers: Sequence[int] = (), grains: int = 2, **_: Any) -> str | None:
    """Layers of the Multi-grained Net and of each RefineNet: 10+2, 10+2+2 for three grains."""
    return "+".join(map(str, [*layers[:1], *list(layers[1:]) * (grains - 1)])) or None


def _number(text: str | None) -> float | None:
    return float(text) if text else None
