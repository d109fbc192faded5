"""Exported folders of networks that are small as files, and vast once they draw."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from d2it.models.store import empty_network
from tests.hostile_folders import Change, read, reseal, write

Shape = dict[str, Any]
DVAE: Shape = {"channels": 1, "multipliers": [1] * 4, "factors": [8, 4], "res_blocks": 1}
DVAE |= {"norm_groups": 1, "latent_channels": 1, "attention": []}
MAIN: Shape = {"channels": 1, "width": 4, "heads": 1, "classes": 9}
DIT: Shape = MAIN | {"depth": 1, "patch": 64, "side": 512}
CONTENT: Shape = MAIN | {"layers": [1, 1], "grains": 2, "positions": "fixed"}
CONTENT |= {"bias": "none", "fine_only": True, "side": 512, "window": 512}

WIDE: Shape = DIT | {"side": 32, "patch": 1, "width": 256, "mlp_ratio": 16.0}
MASKED: Shape = CONTENT | {"side": 32, "window": 16, "width": 16, "heads": 16, "bias": "window"}

VAST: dict[str, tuple[int, str, Shape, Shape]] = {  # images of a block, the main network, the DVAE
    "attention of pixels": (1, "dit", DIT, DVAE | {"attention": [1]}),
    "attention of codes": (1, "dit", DIT, DVAE),
    "one window": (1, "content", CONTENT, DVAE),
    "masks of a block": (4096, "content", MASKED, DVAE),
    "tokens of a block": (4096, "dit", WIDE, DVAE),
}


def vast_changes() -> Iterator[tuple[str, Change]]:
    for name, values in VAST.items():
        yield f"for hours: {name}", partial(_write_vast, *values)


def _write_vast(block: int, kind: str, main: Shape, dvae: Shape, folder: Path) -> None:
    """With weights that fit: zeros, of one step, of maps that are fine alone."""
    header = read(folder)
    networks, (coarse, fine) = header["networks"], dvae["factors"]
    for table in networks, header["files"]:
        table.pop(next(name for name in table if name.startswith("grain")))
    (folder / "grain.safetensors").unlink()
    size, sigma = main["side"] * fine, {"learn_sigma": header["diffusion"]["learn_sigma"]}
    networks["dvae"]["architecture"] = dvae | {"size": size}
    networks["network"] |= {"kind": kind, "architecture": main | sigma}
    header |= {"kind": kind, "regions": size // coarse, "ratio": 1.0, "learned": 1.0}
    header |= {"cuts": ["-inf"], "guidance": 1.0}
    header["sampling"] |= {"steps": 1, "block": block}
    for name, one in networks.items():
        decodes = {"encodes": False} if one["kind"] == "dvae" else {}
        with torch.device("meta"):
            state = empty_network(one["kind"], one["architecture"] | decodes).state_dict()
        weights = {key: torch.zeros(value.shape) for key, value in state.items()}
        save_file(weights, folder / f"{name}.safetensors")
    write(folder, header)
    reseal(folder)
