"""What runs take on the disk and lose by a fault, at each scale: a block of docs/training.md.

python tools/budget.py [--gpu a100]    # images/s from runs/ where a run has been trained here
"""

import argparse
import json
import statistics
from pathlib import Path

from d2it.config import Config, load
from d2it.config.recipe import KINDS
from d2it.config.run import run_of, runs_of
from d2it.cost.plan import Price, price_run
from d2it.cost.rate import Rate, rate_of
from d2it.files import write_text
from d2it.jobs.launcher import load_launcher
from d2it.machine.gpus import find_gpu

PAGE = Path("docs/training.md")
# Launchers, whose GPUs are assumed where nothing was measured; small scales need none.
SCALES = {"smoke": None, "demo": None, "mini": "local", "paper": "slurm"}
COLUMNS = (
    "scale",
    "largest run of its kind",
    "parameters",
    "run folder and model at most",
    "files",
    "GB of a GPU",
    "images/s",
    "saved every",
    "a kill costs, on average",
    "of a run of",
)


NOTE = """\
Disk and files: the two states that are kept, a third while it is written, milestones, the log, and
the published copy; `d2it plan` adds data and latents of a whole study. A kill loses the work since
the last save, half an interval on average, and the start. A signal loses nothing but the start; a
process that stands still costs D2IT_STALL_MINUTES more; a damaged state, one interval more. The
shares of the peak are those of `d2it plan`.
"""


def largest(config: Config, rate: Rate) -> list[Price]:
    """Of each kind the run with most parameters, and of these the longest."""
    runs = runs_of(config).values()
    kinds = [[price_run(run, rate) for run in runs if run.kind == kind] for kind in KINDS]
    return [max(prices, key=lambda p: (p.parameters, p.images)) for prices in kinds]


def measured(config: Config, run: str) -> float | None:
    """The median images/s of a run's log, if it was trained in this checkout."""
    path = run_of(config, run).folder / "metrics.jsonl"
    if not path.is_file():
        return None
    return statistics.median(
        json.loads(line)["images_per_second"]
        for line in path.read_text(encoding="utf-8").splitlines()
    )


def row(config: Config, price: Price, rate: Rate, launcher: str | None) -> list[str]:
    training = getattr(config.training, price.kind)
    speed, how = measured(config, price.run), "measured"
    if speed is None and launcher is not None:
        gpus = max(1, load_launcher(launcher).of(price.kind).gpus)
        speed = gpus * price.images / (price.hours["train"] * 3600)
        share, name = price.mfu or 0, rate.gpu.name.upper()
        how = f"assumed: {gpus} {name} at {share:.0%} of the peak"
    disk = sum((price.disk[use].bytes for use in ("states", "models")), 0.0)
    files = sum(price.disk[use].files for use in ("states", "models"))
    interval = min(training.save_images or price.images, price.images)  # 0: saved at the end alone
    spans = (interval, interval / 2, price.images)
    return [
        config.name,
        f"{price.run} ({price.kind})",
        f"{price.parameters / 1e6:.1f} M",
        size(disk),
        str(files),
        f"{price.memory_gb:.1f}",
        f"{speed:.0f} ({how})" if speed else "not measured here",
        *(time(span / speed) if speed else "–" for span in spans),
    ]


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def block(gpu: str) -> str:
    rate = rate_of(find_gpu(gpu))
    rows = []
    for scale, launcher in SCALES.items():
        config = load(overrides=[f"scale={scale}"])
        rows += [row(config, price, rate, launcher) for price in largest(config, rate)]
    table = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in table)
    return f"{text}\n{NOTE}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", default="a100")
    before, rest = PAGE.read_text(encoding="utf-8").split("<!-- budget -->")
    after = rest.split("<!-- /budget -->")[1]
    content = block(parser.parse_args().gpu)
    write_text(PAGE, f"{before}<!-- budget -->\n{content}<!-- /budget -->{after}")
