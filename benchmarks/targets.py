"""What was aimed at, beside what the benchmarks measured."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from d2it.files import read_json
from d2it.gpus import find_gpu

Found = dict[str, Any]  # a benchmark's JSON
Sign = Literal["≥", "≤"]
OURS, FAST = "DiT", "diffusers' DiT, equal dtype and compile"
SIZES = {"cpu": ("demo", "B"), "cuda": ("B", "L", "XL")}
MFU = {"B": 0.3, "L": 0.38, "XL": 0.4}


@dataclass(frozen=True)
class Target:
    what: str
    sign: Sign
    wanted: float
    file: str  # below benchmarks/results/
    value: Callable[[Found], float]

    def row(self, results: Path) -> dict[str, Any]:
        row: dict[str, Any] = {"target": self.what, "wanted": f"{self.sign} {self.wanted:g}"}
        if not (results / self.file).is_file():
            return row | {"measured": "", "verdict": "not measured"}
        value = self.value(read_json(results / self.file, made_by="make bench"))
        met = value >= self.wanted if self.sign == "≥" else value <= self.wanted
        return row | {"measured": value, "verdict": "met" if met else "not met"}


def targets() -> Iterator[Target]:
    yield Target(
        "calibration, speed over the direct kernel density",
        "≥",
        50,
        "calibration-cpu.json",
        lambda found: one(found, what="d2it calibrate")["over_direct"],
    )
    yield Target(
        "Fréchet distance, speed over scipy's matrix root at full rank",
        "≥",
        10,
        "metrics-cpu.json",
        lambda found: one(found, what="Fréchet distance, 4096 features")["peer / ours"],
    )
    for command, wanted in (("dry run of the paper's grid", 3), ("d2it --help", 0.5)):
        yield Target(
            f"{command}, seconds",
            "≤",
            wanted,
            "workflow-cpu.json",
            lambda found, command=command: one(found, command=command)["seconds"],
        )
    for device, sizes in SIZES.items():
        for size in sizes:
            yield from of_training(device, size)


def of_training(device: str, size: str) -> Iterator[Target]:
    file, name = f"training-{device}.json", "CPU" if device == "cpu" else "GPU"

    def add(what: str, sign: Sign, wanted: float, value: Callable[[Found], float]) -> Target:
        return Target(f"{what}, {size} on a {name}", sign, wanted, file, value)

    def rows(found: Found, network: str) -> dict[str, Any]:
        return one(found, network=network, size=size)

    for windows in ("windows with fine regions", "all windows"):

        def over_bound(found: Found, network: str = f"D²iT, {windows}") -> float:
            row = rows(found, network)
            return float(row["mac_bound_over_our_dit"] / row["over_our_dit"])

        yield add(f"training D²iT, {windows}, seconds over its MAC bound", "≤", 1.15, over_bound)
    yield add(
        "training DiT, speed over diffusers' at equal dtype and compile",
        "≥",
        1,
        lambda found: rows(found, FAST)["seconds"] / rows(found, OURS)["seconds"],
    )
    yield add(
        "training DiT, speed over diffusers' in the published loop",
        "≥",
        1.5,
        lambda found: rows(found, OURS)["over_published_loop"],
    )
    if device == "cuda":

        def mfu(found: Found) -> float:
            peak = find_gpu(found["hardware"]["gpu"]).bf16
            return float(rows(found, OURS)["tflops"] / peak)

        yield add("training DiT, MFU in bf16", "≥", MFU[size], mfu)


def one(found: Found, **wanted: str) -> dict[str, Any]:
    """The row that holds these values."""
    row: dict[str, Any] = next(row for row in found["rows"] if wanted.items() <= row.items())
    return row
