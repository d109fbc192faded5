"""A request of the page, checked, and the command and the Python that draw the same."""

import json
import shlex
from dataclasses import dataclass
from typing import Annotated

from d2it.config.check import check_number
from d2it.config.ratios import shares
from d2it.config.settings import fields_of
from d2it.config.typed import build
from d2it.config.types import Amount, Count, Range, Ratio
from d2it.errors import UserError
from d2it.files import canonical_digest
from d2it.grains.rows import to_rows


@dataclass(frozen=True)
class Asked:
    """One image, as `Pipeline.sample` is asked for it."""

    seed: Annotated[int, Range("at least 0 and below 1e12"), "number of the image"]
    label: Annotated[str | None, "class by number or name; null: all in turn"] = None
    map: Annotated[list[list[Amount]] | None, "grains (h, w); null: the folder's own"] = None
    ratio: Annotated[Ratio | None, "share of fine regions; null: the folder's own"] = None
    steps: Annotated[Count | None, "of the sampler; null: the folder's own"] = None
    guidance: Annotated[
        float | None, Range("at least 0 and below inf"), "1: none; null: the folder's own"
    ] = None


def read(text: str) -> Asked:
    """A request in JSON."""
    try:
        asked = build(Asked, json.loads(text), "request")
    except (ValueError, RecursionError):
        raise UserError("The request is not JSON: reload the page.") from None
    for name, setting in fields_of(Asked).items():
        value = getattr(asked, name)
        if setting.range and isinstance(value, (int, float)):
            check_number(value, name, setting.range)
    if asked.map is not None and len({len(row) for row in asked.map}) != 1:
        raise UserError("The rows of the grain map differ in length: give every region a grain.")
    return asked


def command(folder: str, asked: Asked) -> str:
    ratio = None if asked.ratio is None else ",".join(str(share) for share in shares(asked.ratio))
    options = {
        "--class": asked.label,
        "--grain-map": None if asked.map is None else to_rows(asked.map),
        "--ratio": ratio,
        "--steps": asked.steps,
        "--guidance": asked.guidance,
    }
    words = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    out = f"samples/{canonical_digest([folder, vars(asked)])[:8]}"
    given = ["--run", folder, "--seeds", str(asked.seed), *words, "--out", out]
    return shlex.join(["d2it", "sample", *given])


def python(folder: str, asked: Asked) -> str:
    lines = ["import d2it", "", f"pipe = d2it.load({folder!r})"]
    named = {name: value for name, value in vars(asked).items() if value is not None}
    words = [f"first={named.pop('seed')}"]
    if named.pop("map", None):
        lines += ["map = [", *(f"    {row}," for row in asked.map or []), "]"]
        words.append("map=map")
    words += [f"{name}={value!r}" for name, value in named.items()]
    return "\n".join([*lines, f"images, maps = pipe.sample({', '.join(words)})", ""])
