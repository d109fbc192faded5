"""What was aimed at, beside what the benchmarks measured."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from d2it.files import read_json
from d2it.machine.gpus import find_gpu

Found = dict[str, Any]  # a benchmark's JSON
Row = dict[str, Any]  # of it
Spent = Callable[[Row], float]  # the seconds of a row in one of its rounds
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
    value: Callable[[Found, Spent], float]

    def row(self, results: Path) -> Row:
        row: Row = {"target": self.what, "wanted": f"{self.sign} {self.wanted:g}"}
        path = results / self.file
        found = read_json(path, made_by="make bench") if path.is_file() else {"rows": []}
        try:
            values = self.by_round(found)
        except IndexError:  # on this device, or in this precision
            return row | {"measured": "", "interval": "", "verdict": "not measured"}
        low, high = interval_of_median(values)
        return row | {
            "measured": statistics.median(values),
            "interval": f"{low:.3g} – {high:.3g}",
            "verdict": self.verdict(low, high),
        }

    def by_round(self, found: Found) -> list[float]:
        """As many as the row with the fewest has that the value is of."""
        asked: list[int] = []

        def first(row: Row) -> float:
            asked.append(len(row["rounds"]))
            return float(row["rounds"][0])

        self.value(found, first)
        return [
            self.value(found, lambda row, i=turn: float(row["rounds"][i]))
            for turn in range(min(asked))
        ]

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
        lambda found, spent: over_metrics_peer(found, spent, "Fréchet distance, 4096 features"),
    )
    for command, wanted in (("dry run of the paper's grid", 3), ("d2it --help", 0.5)):
        yield Target(
            f"{command}, seconds",
            "≤",
            wanted,
            "workflow-cpu.json",
            lambda found, spent, command=command: spent(one(found, command=command)),
        )
    for device, sizes in SIZES.items():
        for size, precision in sizes:
            yield from of_training(device, size, precision)


def over_direct(found: Found, spent: Spent) -> float:
    ours, direct = (one(found, what=what) for what in ("d2it calibrate", "direct kernel density"))
    return float(spent(direct) / direct["images"] * ours["images"] / spent(ours))


def over_metrics_peer(found: Found, spent: Spent, what: str) -> float:
    row = one(found, what=what)
    ours, peer = ({"rounds": row["rounds"][side]} for side in ("ours", "peer"))
    return spent(peer) / spent(ours)


def of_training(device: str, size: str, precision: str) -> Iterator[Target]:
    file = f"training-{device}.json"
    where = f"{size} in {precision} on a {'CPU' if device == 'cpu' else 'GPU'}"
    loop = f"diffusers' in the published loop ({'fp32' if device == 'cpu' else 'TF32'})"

    def add(what: str, sign: Sign, wanted: float, value: Callable[[Found, Spent], float]) -> Target:
        return Target(f"{what}, {where}", sign, wanted, file, value)

    def of(found: Found, network: str) -> Row:
        return one(found, network=network, size=size, precision=precision)

    for windows in ("windows with fine regions", "all windows"):

        def over_bound(found: Found, spent: Spent, network: str = f"D²iT, {windows}") -> float:
            row, dit = of(found, network), of(found, OURS)
            return float(spent(row) / spent(dit) * dit["gmacs"] / row["gmacs"])

        yield add(f"training D²iT, {windows}, seconds over its MAC bound", "≤", 1.15, over_bound)
    for what, wanted, network in (
        ("diffusers' at equal dtype and compile", 1, FAST),
        (loop, 1.5, PUBLISHED),
    ):

        def over_peer(found: Found, spent: Spent, network: str = network) -> float:
            return spent(of(found, network)) / spent(of(found, OURS))

        yield add(f"training DiT, speed over {what}", "≥", wanted, over_peer)
    if device == "cuda":

        def mfu(found: Found, spent: Spent) -> float:
            row, peak = of(found, OURS), find_gpu(found["hardware"]["gpu"]).bf16
            return float(row["tflops"] * row["seconds"] / spent(row) / peak)

        yield add("training DiT, MFU", "≥", MFU[size], mfu)


def one(found: Found, **wanted: str) -> Row:
    """The row that holds these values; IndexError: it was not measured."""
    rows: list[Row] = [row for row in found["rows"] if wanted.items() <= row.items()]
    return rows[0]
