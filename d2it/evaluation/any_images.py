"""The metrics of anybody's images against any reference: a folder, a batch, or a data set's own."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2it.config import Config
from d2it.config.protocols import METRICS, PROTOCOLS, asked
from d2it.config.typed import nearest
from d2it.errors import SETTINGS, UserError
from d2it.evaluation.compare import compare, missing, rank_deficient
from d2it.evaluation.image_sets import Pictures, open_pictures, spell_side
from d2it.evaluation.reference import (
    CHUNK,
    Reference,
    cached_reference,
    open_reference,
    pictures_of,
)
from d2it.machine.device import choose_device
from d2it.models.inception import DIMENSIONS, Head, Inception
from d2it.sources.fetch import weights_file

NEIGHBOURS = 3  # of precision and recall, as in their paper


def compare_pictures(
    images: Path | str,
    reference: Path | str,
    config: Config,
    protocol: str | None = None,
    metrics: Sequence[str] = (),
    n: int | None = None,
    any_size: bool = False,
) -> dict[str, Any]:
    """{"metrics": …, "recipe": …} of images against a reference.

    `metrics` may name the images that they ask for, e.g. `fid_10k`; `n` is the same in numbers. The
    first so many are taken; fewer are an error. No names: the protocol's, and KID.
    """
    known = None if Path(reference).exists() else _data_set(str(reference), config)
    own = config.data[known].protocol if known else "clean"
    protocol = protocol or own
    names, n = _named(metrics or _usual(protocol), n)
    ours = open_pictures(images, n)
    _warn_of_copies(ours)
    theirs: Reference | Pictures
    side: tuple[int, int] | None
    if known:
        made = protocol == own
        theirs = open_reference(config, known) if made else pictures_of(config, known)
        side = (config.data[known].size,) * 2
    else:
        theirs = open_pictures(reference)
        side = theirs.side
        _warn_of_copies(theirs)
    fewest = min(ours.n, theirs.n if isinstance(theirs, Pictures) else len(theirs.features))
    _check_sides(ours, str(reference), side, any_size)
    lacking = {} if metrics else _lacking(list(names), fewest)
    bases = [base for base in names.values() if base not in lacking]
    _check_sources(bases, fewest)
    if known and isinstance(theirs, Reference) and "sfid" in bases and theirs.spatial is None:
        more = shlex.quote(f"evaluation.metrics=[{','.join([*asked(config, known), 'sfid'])}]")
        raise UserError(
            f"The reference of {known} holds no spatial features: leave sfid out, or run "
            f"`d2it reference {known}{SETTINGS} {more}`, and this command with that setting."
        )
    extractor = Inception(protocol, choose_device())
    samples = _features(extractor, ours)
    if isinstance(theirs, Pictures):
        theirs = cached_reference(theirs, protocol, "sfid" in bases)
    found = compare(bases, samples, theirs, NEIGHBOURS, extractor.device)
    recipe = {
        "protocol": protocol,
        "n": ours.n,
        "images_digest": ours.digest,
        "duplicates": ours.copies,
        "reference": str(reference),
        "reference_n": len(theirs.features),
        "reference_digest": theirs.digest,
        "neighbours": NEIGHBOURS,
        "inception_sha256": extractor.sha256,
        "inception_head_sha256": Head.sha256() if "inception_score" in bases else None,
        "missing": lacking,
        "rank_deficient": rank_deficient(fewest),
    }
    if recipe["rank_deficient"]:
        _warn(f"no more images than features ({DIMENSIONS}): compare FIDs at equal numbers only")
    return {
        "metrics": {name: found[base] for name, base in names.items() if base in found},
        "recipe": recipe,
    }


def _data_set(name: str, config: Config) -> str:
    if name not in config.data:
        raise UserError(
            f"{name} is neither a folder or file of images, nor a data set of scale {config.name}"
            f"{nearest(name, list(config.data))}: name one of them."
        )
    return name


def _usual(protocol: str) -> list[str]:
    chosen = {*PROTOCOLS[protocol], "kid"}
    return [name for name in METRICS if name in chosen]


def _named(metrics: Sequence[str], n: int | None) -> tuple[dict[str, str], int | None]:
    """What was asked for -> the metric, and the images that all of them ask for."""
    names, counts = dict[str, str](), set[int]() if n is None else {n}
    for name in metrics:
        match = re.fullmatch(r"(\w+?)(?:_(\d+)k)?", name)
        base, thousands = match.groups() if match else (name, None)
        if base not in METRICS:
            raise UserError(
                f"There is no metric {name!r}{nearest(base, METRICS)}: choose from "
                f"{', '.join(METRICS)}, with _10k or _50k behind it if so many images are needed."
            )
        names[name] = base
        counts |= {int(thousands) * 1000} if thousands else set()
    if len(counts) > 1:
        raise UserError(
            f"The metrics ask for {' and '.join(map(str, sorted(counts)))} images: "
            "ask for one number at a time."
        )
    return names, next(iter(counts), None)


def _check_sides(
    ours: Pictures, reference: str, side: tuple[int, int] | None, any_size: bool
) -> None:
    """FIDs between resolutions measure the resizing."""
    if ours.side == side and side is not None:
        return
    sentence = (
        f"{ours.name} holds images of {spell_side(ours.side)}, {reference} of {spell_side(side)}"
    )
    if not any_size and ours.side != side:
        raise UserError(
            f"{sentence}: resize one of them, or add --any-size to compare them all the same."
        )
    _warn(f"{sentence}: the difference is part of what is measured")


def _lacking(names: Sequence[str], fewest: int) -> dict[str, str]:
    """Why some of the usual metrics are left out, by name; what was asked for is never left out."""
    few = {
        name: f"needs more than {NEIGHBOURS} images"
        for name in ("precision", "recall")
        if name in names and fewest <= NEIGHBOURS
    }
    return missing(names) | few


def _check_sources(bases: Sequence[str], fewest: int) -> None:
    """What the metrics need, before anything slow."""
    if {"precision", "recall"} & set(bases) and fewest <= NEIGHBOURS:
        raise UserError(
            f"Precision and recall need more than {NEIGHBOURS} images, but there are {fewest}: "
            "add some."
        )
    if "inception_score" in bases:
        weights_file(Head.SOURCE)


def _warn_of_copies(pictures: Pictures) -> None:
    if pictures.copies:
        _warn(f"{pictures.copies} of {pictures.n} images in {pictures.name} are copies of others")


def _warn(sentence: str) -> None:
    print(f"d2it: warning: {sentence}", file=sys.stderr)


def _features(extractor: Inception, pictures: Pictures) -> dict[str, np.ndarray]:
    blocks = []
    with tqdm(total=pictures.n, unit="image", desc=pictures.name, disable=None) as bar:
        for start in range(0, pictures.n, CHUNK):
            images = pictures.read(start, min(start + CHUNK, pictures.n))
            blocks.append(extractor.both(images))
            bar.update(len(images))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1, sort_keys=True, allow_nan=False))
        return
    recipe = found["recipe"]
    for name, value in found["metrics"].items():
        print(f"{name:15} {value:.6g}")
    for name, why in recipe["missing"].items():
        print(f"{name:15} {why}")
    print(f"protocol {recipe['protocol']}, {recipe['n']} images against {recipe['reference_n']}")
