"""d2it plan [TARGET ...] [--scale S] [--gpu G] [--json] [overrides]: the price of a study."""

import argparse
import json
import textwrap
from dataclasses import asdict

from d2it.commands.options import add_config_arguments
from d2it.config import Config
from d2it.config.load import load
from d2it.config.study import heading, load_study
from d2it.cost.disk import Disk
from d2it.cost.plan import Price, Prices, plan
from d2it.cost.rate import Rate, rate_of
from d2it.machine.gpus import GPUS, find_gpu
from d2it.text import aligned, amount

HEADINGS = (
    "run",
    "M param",
    "GMACs",
    "steps",
    "images",
    "GB/GPU",
    "train",
    "encode",
    "eval",
    "GPU h",
    "disk",
    "files",
)
SHOWN = ("train", "encode", "evaluate")
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: d2it plan --scale paper --gpu a800; d2it plan table_3 d2it_xl_classes "
        "scale=paper --mfu 0.4."
    )
    parser.add_argument("--scale", help="the same as scale=NAME")
    parser.add_argument("--gpu", default="a100", help=f"one of {', '.join(GPUS)} (default: a100)")
    parser.add_argument(
        "--mfu",
        type=float,
        metavar="SHARE",
        help="reached share of the GPU's peak, e.g. 0.4 (default: measured, else assumed)",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    meaning = "tables, figures, runs (default: every run), and Hydra overrides"
    add_config_arguments(parser, "target|key=value", meaning)


def main(arguments: argparse.Namespace) -> None:
    targets = [word for word in arguments.overrides if "=" not in word]
    overrides = [word for word in arguments.overrides if "=" in word]
    if arguments.scale:
        overrides.insert(0, f"scale={arguments.scale}")
    arguments.overrides = overrides
    rate = rate_of(find_gpu(arguments.gpu), arguments.mfu)
    config = load(arguments.params, overrides)
    found = plan(config, load_study(), targets, rate)
    if arguments.json:
        print(json.dumps(as_json(config.name, found, rate), indent=1, ensure_ascii=False))
        return
    print("\n".join([*heading_lines(config, rate), "", *table(found)]))
    print("\nDisk: " + ", ".join(f"{w} {space(d)[0]} GB" for w, d in found.by_use().items()))
    if found.items:
        print("\nGPU-hours of each by itself (shared runs count in each)")
        for item, hours in found.items.items():
            print(f"  {heading(item):<10}{count(hours):>10}")
    print()
    for sentence in [*found.too_large, *(found.missing or ["Data and weights are there."])]:
        print("\n".join(textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")))


def as_json(scale: str, found: Prices, rate: Rate) -> dict[str, object]:
    total = {"gpu_hours": found.hours, **asdict(found.disk)}
    return {
        "scale": scale,
        "gpu": asdict(rate.gpu),
        "assumed_mfu": rate.shares,
        "measured_mfu": {" ".join(what).strip(): mfu for what, mfu in rate.measured.items()},
        "prices": [asdict(price) for price in found.prices],
        "items": found.items,
        "total": total,
        "too_large": found.too_large,
        "missing": found.missing,
    }


def heading_lines(config: Config, rate: Rate) -> list[str]:
    gpu, shares = rate.gpu, rate.shares
    sampling = {"bf16": "bf16", "tf32": "TF32", "fp32": "fp32"}[config.sampling.precision]
    measured = ", ".join(f"{' '.join(what).strip()} {m:.0%}" for what, m in rate.measured.items())
    text = (
        f"Scale {config.name} on {gpu.name.upper()} GPUs of {gpu.gigabytes} GB, as if nothing had "
        f"been made yet. Assumed: {shares['bf16']:.0%} of {gpu.bf16:g} TFLOP/s in bf16, "
        f"{shares['tf32']:.0%} of {gpu.tf32:g} in TF32 (convolutions in fp32), "
        f"{shares['fp32']:.0%} of {gpu.fp32:g} in fp32 (Inception); sampling is in "
        f"{sampling}. Measured MFU: {measured or 'none on this GPU (make first-hour)'}. "
        "GMACs are of one forward pass; hours are of one GPU, to be divided by their number; "
        "GB/GPU is what training needs on each, however many there are; disk is in GB."
    )
    return textwrap.wrap(text, WIDTH)


def table(found: Prices) -> list[str]:
    rows = [HEADINGS, *(cells(price) for price in found.prices)]
    rows.append(("total", *[""] * 8, count(found.hours), *space(found.disk)))
    return aligned(rows)


def cells(price: Price) -> tuple[str, ...]:
    data = price.kind == "data"
    hours = [count(price.hours[what]) if what in price.hours else "" for what in SHOWN]
    return (
        f"images {price.run}" if data else price.run,
        "" if data else f"{price.parameters / 1e6:.1f}",
        "" if data else f"{price.gmacs:.1f}",
        "" if data else amount(price.steps),
        amount(price.images),
        "" if price.memory_gb is None else count(price.memory_gb),
        *hours,
        count(price.total_hours),
        *space(price.total_disk),
    )


def count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def space(disk: Disk) -> tuple[str, str]:
    return count(disk.bytes / 1e9), str(disk.files)
