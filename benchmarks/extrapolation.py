"""docs/scaling.md: the measured curves, fitted; and what they come to at ImageNet-22k's size.

python -m benchmarks.extrapolation
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.common import RESULTS, machine, spread, table
from d2it.config import load
from d2it.config.schema import Config
from d2it.cost.macs import parameters, training_flops
from d2it.cost.plan import price_data, price_run
from d2it.cost.rate import rate_of
from d2it.files import read_json, write_text
from d2it.machine.gpus import GPUS
from d2it.models.architecture import architecture

ROOT = Path(__file__).parents[1]
PAGE, MEASURED = ROOT / "docs" / "scaling.md", RESULTS / "scaling-cpu.json"
PACKED = RESULTS / "prepare-cpu.json"
IMAGES, CLASSES = 14_200_000, 21_841  # of ImageNet-22k
NODES, PER_NODE = 64, 8
GPUS_USED = NODES * PER_NODE
GPU = GPUS["a100"]
RATE = rate_of(GPU, results=Path("none"))
LINK = 25e9  # bytes a second of each GPU's own network card (200 Gbit/s)
ARGUMENT = 131_072  # bytes of one argument of a command, Linux's limit
MANY = 1000  # runs
RUN, DVAE = "d2it_xl_classes", "dvae_classes"
INTRODUCTION = """# How costs grow

`make bench` measures the curves again and writes this page; `python -m benchmarks.extrapolation`
prints its sums.

## Measured
"""
NOT_MEASURED = f"Not measured yet: there is no `benchmarks/results/{MEASURED.name}`."
LEGEND = """
The networks are toys: width {width}, depth {depth}, {side} x {side} latents, {batch} images a
step, but where that varies. Seconds are of the first and the last point. *Exponent*: the slope
of log seconds over log x by least squares; 1 is proportional. *Spread*: the largest of a
point's quartiles' distance over its median. *MACs'*: that of the multiply-
accumulates. *Line*: least squares of seconds over x, where a fixed part and one for each step
or run are what is asked; over the ratio, in units of the step at ratio 0, with that of the
MACs. Networks this small spend much of a step outside of their multiplications, so their seconds
grow slower than their MACs: what large ones take follows the MACs. Of two to five points an
exponent is a rough number. *Processes* share one machine, a thread each; several nodes have not
been measured, what their network adds is computed below.
"""
COMPUTED = f"""
## ImageNet-22k on {NODES} nodes: computed, not measured

{IMAGES:,} images of {CLASSES:,} classes at 256 px, D²iT-XL, {PER_NODE} {GPU.name.upper()} GPUs a
node at the shares of their peaks that `d2it plan` assumes, {LINK / 1e9:g} GB/s of network for each
GPU. What is "here" was measured above.
"""
LINES = ("ratio", "steps", "runs")  # what a fixed part and a part for each is asked of


def exponent(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """(fixed, each) of y = fixed + each x."""
    each, fixed = np.polyfit(x, y, 1)
    return float(fixed), float(each)


def curves(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of the table for each curve."""
    found = []
    for (cost, over), points in itertools.groupby(rows, lambda row: (row["cost"], row["over"])):
        several = list(points)
        x, seconds = ([point[key] for point in several] for key in ("x", "seconds"))
        macs = [point["gmacs"] for point in several if "gmacs" in point]
        found.append(
            {
                "cost": cost,
                "over": over,
                "x": ", ".join(f"{value:,g}" for value in x),
                "seconds": f"{seconds[0]:.3g} – {seconds[-1]:.3g}",
                "spread, %": f"{100 * max(spread(point['rounds']) for point in several):.0f}",
                "exponent": f"{exponent(x, seconds):.2f}" if x[0] else "",
                "MACs'": f"{exponent(x, macs):.2f}" if macs and x[0] else "",
                "line": spelt_line(over, x, seconds, macs) if over in LINES else "",
            }
        )
    return found


def spelt_line(over: str, x: list[float], seconds: list[float], macs: list[float]) -> str:
    fixed, each = line(x, seconds)
    if over != "ratio":
        return f"{fixed:.3g} s + {each * 1e3:.3g} ms each"
    base, more = line(x, macs)
    return f"1 + {each / fixed:.2f} x (MACs: 1 + {more / base:.2f} x)"


def large() -> Config:
    """The published scale with ImageNet-22k in the place of ImageNet."""
    changes = {"images": IMAGES, "classes": CLASSES, "reference": "null"}
    overrides = [f"data.imagenet.{key}={value}" for key, value in changes.items()]
    return load(overrides=["scale=paper", "name=imagenet22k", *overrides])


def sums(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What, by which sum, and how much; `rows` empty: without those of curves not yet measured."""
    config = large()
    return [*storage(config), *hours_of(config), *network(config), *head_node(), *here(rows)]


def row(what: str, sum: str, found: str) -> dict[str, str]:
    return {"what": what, "sum": sum, "found": found}


def storage(config: Config) -> list[dict[str, str]]:
    data, latents = price_data(config, "imagenet", RATE).disk, price_run(config, DVAE, RATE).disk
    images, features, codes = data["images"], data["features"], latents["latents"]
    files = [images.files, codes.files, features.files]
    return [
        row("packed images", f"{IMAGES:,} x (3 x 256² + 8) bytes", gigabytes(images.bytes)),
        row(
            "latents",
            f"{IMAGES:,} x {codes.bytes / IMAGES:,.0f} bytes: mean and variance of both mirrors' "
            "32² + 16² codes of 4 channels in float16, entropies, label",
            gigabytes(codes.bytes),
        ),
        row(
            "the reference's features",
            f"{IMAGES:,} x 2,048 x 4 bytes, Gaussians",
            gigabytes(features.bytes),
        ),
        row("their files", " + ".join(f"{each:,}" for each in files), f"{sum(files):,}"),
    ]


def hours_of(config: Config) -> list[dict[str, str]]:
    shares = RATE.shares
    encode = price_run(config, DVAE, RATE).hours["encode"]
    reference = price_data(config, "imagenet", RATE).hours["reference"]
    train = IMAGES * image_seconds(config) / 3600
    return [
        row(
            "encoding",
            f"2 mirrors x {IMAGES:,} images in TF32 at {shares['tf32']:.0%} of {GPU.tf32:g} "
            f"TFLOP/s / {GPUS_USED} GPUs",
            hours(encode * 3600 / GPUS_USED),
        ),
        row(
            "computing those features",
            f"{IMAGES:,} images in fp32 at {shares['fp32']:.0%} of {GPU.fp32:g} TFLOP/s / "
            f"{GPUS_USED} GPUs",
            hours(reference * 3600 / GPUS_USED),
        ),
        row(
            "memory of two orders",
            f"2 x 8 bytes x {IMAGES:,} x {PER_NODE} processes",
            f"{16 * IMAGES * PER_NODE / 1e9:.2g} GB a node",
        ),
        row(
            "an epoch of training",
            f"{IMAGES:,} x {image_seconds(config) * 1e3:.1f} ms (bf16 at {shares['bf16']:.0%} of "
            f"{GPU.bf16:g} TFLOP/s) / {GPUS_USED} GPUs, without exchange",
            hours(train * 3600 / GPUS_USED),
        ),
    ]


def network(config: Config) -> list[dict[str, str]]:
    count, exchange, image = gradients(config), exchange_seconds(config), image_seconds(config)
    return [
        row("gradients of a step", f"4 bytes x {count // 4:,} parameters", gigabytes(count)),
        row(
            "their exchange",
            f"2 x {GPUS_USED - 1} / {GPUS_USED} x {gigabytes(count)} / {LINK / 1e9:g} GB/s (ring)",
            f"{exchange:.2f} s a step",
        ),
        row(
            "the batch that computes as long",
            f"{exchange:.2f} s / {image * 1e3:.1f} ms x {GPUS_USED} GPUs",
            f"{exchange / image * GPUS_USED:,.0f} images",
        ),
    ]


def head_node() -> list[dict[str, str]]:
    poll = yaml.safe_load((ROOT / "params" / "launcher" / "slurm.yaml").read_text())["poll"]
    return [
        row("questions to sacct", f"3,600 s / {poll} s, whatever waits", f"{3600 // poll} an hour"),
        row(
            "jobs in one question", f"{ARGUMENT:,} bytes / 9 for each id", f"{ARGUMENT // 9:,} jobs"
        ),
    ]


def here(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What follows from the curves."""
    if not rows:
        return []
    last = {found["cost"]: found for found in rows}
    calibration, epoch = last["calibration"], last["order of an epoch"]
    rate = calibration["x"] / calibration["seconds"]
    runs = [found for found in rows if found["cost"] == "dry run"]
    fixed, each = line(*([found[key] for found in runs] for key in ("x", "seconds")))
    return [
        *preparing(),
        row("calibration", f"{IMAGES:,} / {rate:,.0f} images a second here", hours(IMAGES / rate)),
        row(
            "order of an epoch",
            f"{IMAGES:,} / {epoch['x']:,} x {epoch['seconds']:.2g} s here, in each process",
            f"{IMAGES / epoch['x'] * epoch['seconds']:.2g} s",
        ),
        row(
            f"dry run of {MANY:,} runs",
            f"{fixed:.2f} s + {MANY:,} x {each * 1e3:.1f} ms here",
            f"{fixed + MANY * each:.1f} s",
        ),
    ]


def preparing() -> list[dict[str, str]]:
    """At the rate of a core while all of a machine work."""
    measured = read_json(PACKED, made_by="make bench")["rows"][-1]
    rate = measured["images_per_second_per_core"]
    return [
        row(
            "packing the images",
            f"{IMAGES:,} / {rate:,.0f} images a second of a core, JPEG of 500 x 375 px",
            f"{IMAGES / rate / 3600:.2g} core-hours",
        )
    ]


def image_seconds(config: Config) -> float:
    """Training on one image, on one GPU."""
    flops = training_flops("content", architecture(config, RUN))
    return flops / (GPU.bf16 * 1e12 * RATE.shares["bf16"])


def gradients(config: Config) -> int:
    """Bytes."""
    return 4 * parameters("content", architecture(config, RUN))["trainable"]


def exchange_seconds(config: Config) -> float:
    return 2 * (GPUS_USED - 1) / GPUS_USED * gradients(config) / LINK


def breaking() -> str:
    """What gives way first, in order."""
    config = large()
    training, needed = config.training.content, exchange_seconds(config) / image_seconds(config)
    return f"""
What breaks first, in this order:

1. **The batch.** A process takes whole shards. `training.content.shards` is {training.shards}, so
   the published settings use {training.shards} GPUs at most; with a shard for each image of its
   batch they use {training.batch} of {GPUS_USED}. More need a larger batch: another recipe.
2. **The exchange of gradients.** Below {needed:.0f} images for each GPU and step it takes longer
   than the arithmetic, as far as it is not hidden behind it: {NODES} nodes pay from batches of
   {needed * GPUS_USED:,.0f} on.
3. **The disk**: packed images first, then latents. `d2it plan` compares them with what is free.
4. **One machine's cores**: `prepare` and `calibrate` work on one, once: their hours above are
   longer than an epoch on {NODES} nodes. Give them a large one (`srun -c 64`).
5. **The reference**: precision and recall look at 50,000 features at most, so
   `data.<name>.reference` is better 50,000 images than all.
6. **Not** the head node: dry runs, questions to Slurm and numbers of files stay small."""


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} h"


def page(found: dict[str, Any]) -> str:
    """`found`: the JSON; without rows, the page says that the curves are not measured."""
    rows = found["rows"]
    where = f"On {machine(found)}. `benchmarks/results/{MEASURED.name}`." if rows else ""
    legend = LEGEND.format(**found["config"]) if rows else ""
    curve = [table(curves(rows)), legend, where] if rows else [NOT_MEASURED]
    return "\n".join([INTRODUCTION, *curve, COMPUTED, table(sums(rows)), breaking()]) + "\n"


def main() -> None:
    found = read_json(MEASURED, made_by="make bench") if MEASURED.is_file() else {"rows": []}
    text = page(found)
    write_text(PAGE, text)
    print(text)


if __name__ == "__main__":
    main()
