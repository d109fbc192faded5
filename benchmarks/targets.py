"""What was aimed at, beside what the benchmarks measured."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from d2it.files import read_json
from d2it.machine.gpus import find_gpu

Found = dict[str, Any]  # a benchmark's JSON
Row = dict[str, Any]  # of it
Sign = Literal["≥", "≤"]
OURS, FAST = "DiT", "diffusers' DiT, equal dtype and compile"
PUBLISHED = "diffusers' DiT, published loop"
SIZES = {  # and what ours are trained in
    "cpu": (("demo", "fp32"), ("B", "fp32"), ("B", "bf16")),
    "cuda": (("B", "bf16"), ("L", "bf16"), ("XL", "bf16")),
}
MFU = {"B": 0.3, "L": 0.38, "XL": 0.4}


@dataclass(frozen=True)
class Target:
    what: str
    sign: Sign
    wanted: float
    file: str  # below benchmarks/results/
    value: Callable[[Found], np.ndarray]  # round by round

    def row(self, results: Path) -> Row:
        row: Row = {"target": self.what, "wanted": f"{self.sign} {self.wanted:g}"}
        path = results / self.file
        found = read_json(path, made_by="make bench") if path.is_file() else {"rows": []}
        try:
            values = self.value(found).tolist()
        except IndexError:  # on this device, or in this precision
            return row | {"measured": "", "interval": "", "verdict": "not measured"}
        low, high = interval_of_median(values)
        return row | {
            "measured": statistics.median(values),
            "interval": f"{low:.3g} – {high:.3g}",
            "verdict": self.verdict(low, high),
        }

    def verdict(self, low: float, high: float) -> str:
        worst, best = (low, high) if self.sign == "≥" else (-high, -low)
        wanted = self.wanted if self.sign == "≥" else -self.wanted
        return "met" if worst >= wanted else "not met" if best < wanted else "not decidable"


def interval_of_median(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """That of the sign test, whatever the distribution is; of few values all that there is."""
    from scipy.stats import binom

    ordered, left_out = sorted(values), int(binom.ppf((1 - level) / 2, len(values), 0.5))
    if left_out == 0:
        return ordered[0], ordered[-1]
    return ordered[left_out - 1], ordered[-left_out]


def targets() -> Iterator[Target]:
    yield Target(
        "calibration, speed over the direct kernel density",
        "≥",
        50,
        "calibration-cpu.json",
        over_direct,
    )
    yield Target(
        "Fréchet distance, speed over scipy's matrix root at full rank",
        "≥",
        10,
        "metrics-cpu.json",
        over_scipy,
    )
    for command, wanted in (("dry run of the paper's grid", 3), ("d2it --help", 0.5)):
        yield Target(
            f"{command}, seconds",
            "≤",
            wanted,
            "workflow-cpu.json",
            lambda found, command=command: np.array(one(found, command=command)["rounds"]),
        )
    for device, sizes in SIZES.items():
        for size, precision in sizes:
            yield from of_training(device, size, precision)


def over_direct(found: Found) -> np.ndarray:
    ours, direct = (one(found, what=what) for what in ("d2it calibrate", "direct kernel density"))
    return ratios(direct["rounds"], ours["rounds"]) * (ours["images"] / direct["images"])


def over_scipy(found: Found) -> np.ndarray:
    rounds = one(found, what="Fréchet distance, 4096 features")["rounds"]
    return ratios(rounds["peer"], rounds["ours"])


def of_training(device: str, size: str, precision: str) -> Iterator[Target]:
    file = f"training-{device}.json"
    where = f"{size} in {precision} on a {'CPU' if device == 'cpu' else 'GPU'}"
    loop = f"diffusers' in the published loop ({'fp32' if device == 'cpu' else 'TF32'})"

    def add(what: str, sign: Sign, wanted: float, value: Callable[[Found], np.ndarray]) -> Target:
        return Target(f"{what}, {where}", sign, wanted, file, value)

    def of(found: Found, network: str) -> Row:
        return one(found, network=network, size=size, precision=precision)

    def over(found: Found, network: str) -> np.ndarray:
        return ratios(of(found, network)["rounds"], of(found, OURS)["rounds"])

    def over_bound(found: Found, network: str) -> np.ndarray:
        bound = of(found, network)["gmacs"] / of(found, OURS)["gmacs"]
        return over(found, network) / bound

    for windows in ("windows with fine regions", "all windows"):
        what = f"training D²iT, {windows}, seconds over its MAC bound"
        yield add(what, "≤", 1.15, partial(over_bound, network=f"D²iT, {windows}"))
    for what, wanted, network in (
        ("diffusers' at equal dtype and compile", 1, FAST),
        (loop, 1.5, PUBLISHED),
    ):
        yield add(f"training DiT, speed over {what}", "≥", wanted, partial(over, network=network))
    if device == "cuda":

        def mfu(found: Found) -> np.ndarray:
            row, peak = of(found, OURS), find_gpu(found["hardware"]["gpu"]).bf16
            return row["tflops"] * row["seconds"] / np.array(row["rounds"]) / peak

        yield add("training DiT, MFU", "≥", MFU[size], mfu)


def ratios(these: Sequence[float], those: Sequence[float]) -> np.ndarray:
    """Round by round, as they took turns: as many as the shorter has."""
    turns = min(len(these), len(those))
    return np.array(these[:turns]) / np.array(those[:turns])


def one(found: Found, **wanted: str) -> Row:
    """The row that holds these values; IndexError: it was not measured."""
    rows: list[Row] = [row for row in found["rows"] if wanted.items() <= row.items()]
    return rows[0]
