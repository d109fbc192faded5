"""What all benchmarks share: interleaved timing, the machine's description, one JSON each."""

import argparse
import functools
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2it.files import write_json
from d2it.text import markdown_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NAMES = (  # columns that say of what a row is come first: a JSON has its keys in alphabetical order
    *("size", "network", "precision", "what", "way", "peer", "command"),
    *("images", "batch", "steps", "processes"),
)
PACKAGES = ("torch", "accelerate", "diffusers", "clean-fid", "torch-fidelity", "snakemake", "scipy")


def arguments(description: str, repeats: int = 9, gpu: bool = True) -> argparse.Namespace:
    """--device and --repeats, as every benchmark takes them; without `gpu`, of a CPU alone."""
    parser = argparse.ArgumentParser(description=description)
    devices = ("cpu", "cuda") if gpu else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"timed rounds (default: {repeats})"
    )
    checkout()
    return parser.parse_args()


def use_all_cores() -> None:
    """A stage takes one thread unless it is told otherwise; a benchmark takes the machine."""
    os.environ.setdefault("D2IT_THREADS", str(len(os.sched_getaffinity(0))))


def interleaved(
    candidates: dict[str, Callable[[], Any]],
    repeats: int,
    device: str = "cpu",
    least: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of a call of each candidate, round by round.

    They take turns, so that what else the machine does is shared by all. The first call warms up
    and may compile; the second says how often a short call is made in a turn: for `least` seconds.
    Where all are short there are three times as many rounds: a busy moment distorts those most.
    """
    import torch

    sync: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def turn(call: Callable[[], Any], times: int) -> float:
        sync()
        began = clock()
        for _ in range(times):
            call()
        sync()
        return (clock() - began) / times

    for call in candidates.values():
        call()
    alone = {name: turn(call, 1) for name, call in candidates.items()}
    times = {name: max(1, round(least / spent)) for name, spent in alone.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats if max(alone.values()) > least else 3 * repeats):
        for name, call in candidates.items():
            seconds[name].append(turn(call, times[name]))
    return seconds


def timed(rounds: list[float]) -> dict[str, Any]:
    """What a row says of its rounds: their median, and all of them."""
    return {"seconds": significant(statistics.median(rounds)), "rounds": kept(rounds)}


def kept(rounds: list[float]) -> list[float]:
    return [significant(spent) for spent in rounds]


def significant(value: float) -> float:
    return float(f"{value:.5g}")


def hardware(device: str) -> dict[str, Any]:
    import torch

    from d2it.machine.device import processor

    found: dict[str, Any] = {"cpu": processor(), "cores": len(os.sched_getaffinity(0))}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()


@functools.cache
def checkout() -> dict[str, Any]:
    """The commit, and whether code differs from it: when a benchmark starts, as both may move."""
    changed = bool(_git("status", "--porcelain", "--", "*.py"))
    return {"commit": _git("rev-parse", "HEAD"), "changed": changed}


def write(name: str, device: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """benchmarks/results/<name>-<device>.json: where, with what and how it was measured."""
    path = RESULTS / f"{name}-{device}.json"
    write_json(
        path,
        {
            "hardware": hardware(device),
            "versions": versions(),
            **checkout(),
            "config": config,
            "rows": rows,
        },
    )
    print(f"{path}:")
    for row in map(_shown, rows):
        print("  " + "  ".join(f"{key} {_spell(value)}" for key, value in row.items()))


def machine(found: dict[str, Any]) -> str:
    """What a benchmark's JSON was measured on and with."""
    where, versions = found["hardware"], found["versions"]
    computed = where.get("gpu") or f"{where['cores']} cores of {where['cpu']}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{computed}; {packages}"


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    rows = [_shown(row) for row in rows]
    known = dict.fromkeys(column for row in rows for column in row)
    columns = [*(name for name in NAMES if name in known), *(c for c in known if c not in NAMES)]
    return markdown_table(columns, [[_spell(row.get(c, "")) for c in columns] for row in rows])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """In the place of its rounds, how far apart their quartiles are."""
    found = dict(row)
    rounds = found.pop("rounds", None)
    if rounds is None:
        return found
    several = list(rounds.values()) if isinstance(rounds, dict) else [rounds]
    return found | {"spread, %": f"{100 * max(map(spread, several)):.0f}"}


def spread(rounds: list[float]) -> float:
    """How far apart the quartiles are, over the median."""
    if len(rounds) == 1:
        return 0.0
    first, middle, third = statistics.quantiles(rounds, n=4, method="inclusive")
    return (third - first) / middle


def _spell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
