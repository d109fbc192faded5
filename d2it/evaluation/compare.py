"""Metrics of samples against a reference, whatever they are samples of."""

import statistics
from collections.abc import Sequence

import numpy as np

from d2it.evaluation.metrics import (
    Gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from d2it.evaluation.neighbours import precision_recall
from d2it.evaluation.reference import Reference
from d2it.machine.device import Device
from d2it.models.inception import DIMENSIONS, Head

HEADLESS = "`d2it fetch inception_head` gets the classifier head that it needs"


def missing(names: Sequence[str]) -> dict[str, str]:
    """Why some of the metrics cannot be computed here, by name."""
    lacks = "inception_score" in names and Head.sha256() is None
    return {"inception_score": HEADLESS} if lacks else {}


def compare(
    names: Sequence[str],
    samples: dict[str, np.ndarray],
    reference: Reference,
    neighbours: int,
    device: Device,
) -> dict[str, float]:
    """The metrics `names` of samples (Evaluator.features) against the reference."""
    features = samples["features"]
    found: dict[str, float] = {}
    if "fid" in names:
        found["fid"] = frechet_distance(Gaussian.of(features, device), reference.gaussian)
    if "sfid" in names and reference.spatial:
        spatial = Gaussian.of(samples["spatial"], device)
        found["sfid"] = frechet_distance(spatial, reference.spatial)
    if "kid" in names:
        found["kid"] = kernel_distance(features, reference.manifold, device)
    if "inception_score" in names:
        found["inception_score"] = inception_score(Head(device)(features))
    if {"precision", "recall"} & set(names):
        shares = precision_recall(features, reference.manifold, neighbours, device)
        found |= dict(zip(("precision", "recall"), shares, strict=True))
    return {name: found[name] for name in names}


def rank_deficient(*counts: int) -> bool:
    """Whether a covariance of so many features lacks rank: comparable at equal n only."""
    return min(counts) <= DIMENSIONS


def over_seeds(
    found: Sequence[dict[str, float]],
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Mean and standard deviation of each metric; no deviation of a single seed."""
    columns = {name: [one[name] for one in found] for name in found[0]}
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    many = len(found) > 1
    return means, {n: statistics.stdev(v) if many else None for n, v in columns.items()}
