"""What a GPU is believed to do: its peaks, and the shares of them that are measured or assumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from d2it.config.documents import told
from d2it.config.types import Precision
from d2it.errors import UserError
from d2it.machine.gpus import Gpu, identify

# Shares of the peaks that are assumed where no benchmark says better. Published DiT training
# reaches 20 to 25 % of tensor cores' peak, and about 55 % of an A100's fp32 without them.
ASSUMED: dict[str, float] = {"bf16": 0.25, "tf32": 0.25, "fp32": 0.5}
RESULTS = Path("benchmarks", "results")
# What each kind is measured in: the published scale's arithmetic.
MEASURED_IN: dict[str, Precision] = {
    "dvae": "tf32",
    "grain": "bf16",
    "content": "bf16",
    "dit": "bf16",
}
NETWORKS = {"DiT": "dit", "D²iT, all windows": "content"}  # of the training benchmark

Measured = tuple[str, str]
"""Kind and size of a network; a DVAE has no size."""


class Hardware(TypedDict):
    gpu: NotRequired[str]


class Row(TypedDict):
    kind: NotRequired[str]
    network: NotRequired[str]
    size: NotRequired[str | None]
    tflops: NotRequired[float | None]


class Benchmark(TypedDict):
    """What counts of a file of benchmarks/results."""

    hardware: Hardware
    rows: list[Row]


@dataclass(frozen=True)
class Rate:
    gpu: Gpu
    shares: dict[str, float]  # of the peaks, by arithmetic
    measured: dict[Measured, float]  # MFU in training

    def hours(self, macs: float, arithmetic: Precision, share: float | None = None) -> float:
        peak = 1e12 * getattr(self.gpu, arithmetic)
        return 2 * macs / (peak * (share or self.shares[arithmetic])) / 3600

    def training(
        self, what: Measured, arithmetic: Precision, work: float, model: float
    ) -> tuple[float, float]:
        """Hours and MFU. An MFU was measured over the MACs of the model alone; the assumed share is
        of all work, what a loss or checkpointing adds to it too.
        """
        if what in self.measured and MEASURED_IN[what[0]] == arithmetic:
            mfu = self.measured[what]
            return self.hours(model, arithmetic, mfu), mfu
        return self.hours(work, arithmetic), self.shares[arithmetic]


def rate_of(gpu: Gpu, mfu: float | None = None, results: Path = RESULTS) -> Rate:
    """`mfu` stands for every assumption and every measurement."""
    if mfu is not None:
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu:g} is not a share of the peak: give 0.4 for 40 %.")
        return Rate(gpu, dict.fromkeys(ASSUMED, mfu), {})
    return Rate(gpu, ASSUMED, measured_mfu(gpu, results))


def measured_mfu(gpu: Gpu, results: Path) -> dict[Measured, float]:
    """MFU on this GPU: of the first hour on one, and of the training benchmark, which rules where
    both have it, since it takes more steps.
    """
    found: dict[Measured, float] = {}
    for path in (*sorted(results.glob("first-hour-*.json")), results / "training-cuda.json"):
        if benchmark := told(Benchmark, path):
            found |= _shares(benchmark, gpu)
    return found


def _shares(benchmark: Benchmark, gpu: Gpu) -> dict[Measured, float]:
    if identify(benchmark["hardware"].get("gpu", "")) is not gpu:
        return {}
    shares: dict[Measured, float] = {}
    for row in benchmark["rows"]:
        kind = row.get("kind") or NETWORKS.get(row.get("network", ""))
        if kind in MEASURED_IN and row.get("tflops"):
            size = "" if kind == "dvae" else row.get("size") or ""
            shares[kind, size] = row["tflops"] / getattr(gpu, MEASURED_IN[kind])
    return shares
