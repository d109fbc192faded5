"""A network from a weights file of anywhere: it is known to fit before memory is taken for it.

The file's own header gives names, shapes and types of its tensors. What they must be give, in turn,
the network's size in closed form, and its layers on the meta device, which takes none.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from d2it.cost.macs import cost, decoder
from d2it.errors import UserError
from d2it.files import file_digest
from d2it.models.shapes import DvaeShape
from d2it.models.store import empty_network
from d2it.text import printable

LARGEST = 1 << 20  # bytes of a file's own header; the paper's largest network has 50 KB
ENCODER = "encoder."  # of a DVAE, and there is nothing to be encoded
T = TypeVar("T")
Described = dict[str, tuple[list[int], str]]


def read_network(
    kind: str, architecture: dict[str, Any], path: Path, size: int, sha256: str, again: str
) -> nn.Module:
    """The network of a file of this size and digest, on the CPU; `again` says how to get one."""
    try:
        if not path.is_file() or path.stat().st_size != size:
            raise UserError("it is missing, or not of the recorded size")
        found = described(path)
        check_fits(kind, architecture, found)
        if file_digest(path) != sha256:
            raise UserError("its sha256 is not the recorded one")
        network = _empty(kind, architecture)
        with safe_open(path, framework="pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in found})
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise UserError("it holds numbers that are not finite")
    except (UserError, SafetensorError, OSError) as error:
        told = printable(str(error).rstrip("."))
        raise UserError(f"{path} is damaged ({told}): {again}.") from None
    return network.eval().requires_grad_(False)


def described(path: Path) -> Described:
    """Shape and type of every tensor that is drawn with."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
    if length > LARGEST:
        raise UserError("it is no safetensors file")
    with safe_open(path, framework="pt") as file:
        slices = drawn_with({name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
        return {name: (one.get_shape(), one.get_dtype()) for name, one in slices.items()}


def drawn_with(state: Mapping[str, T]) -> dict[str, T]:
    return {name: one for name, one in state.items() if not name.startswith(ENCODER)}


def check_fits(kind: str, architecture: dict[str, Any], found: Described) -> None:
    numbers = sum(math.prod(shape) for shape, _ in found.values())
    size = decoder(DvaeShape(**architecture)) if kind == "dvae" else cost(kind, architecture)
    needed = size.trainable + size.frozen
    if needed != numbers:
        raise UserError(f"it holds {numbers} numbers, and its network {needed}")
    with torch.device("meta"):
        layers = _empty(kind, architecture).state_dict()
    for name in [*layers, *found]:
        wanted = list(layers[name].shape) if name in layers else "nothing"
        given, kind_given = found.get(name, ("missing", "F32"))
        if (given, kind_given) != (wanted, "F32"):
            raise UserError(
                f"{name} is {given} of {kind_given}, and {wanted} of F32 in its network"
            )


def _empty(kind: str, architecture: dict[str, Any]) -> nn.Module:
    without = {"encodes": False} if kind == "dvae" else {}
    return empty_network(kind, architecture | without)
