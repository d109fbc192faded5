"""d2it models [--json]: parameters and GMACs of the named models at 256 px."""

import argparse
import json

from d2it.cost.named_models import models_table
from d2it.text import aligned

COLUMNS = {
    "model": "model",
    "split": "layers",
    "trainable": "trainable (M)",
    "total": "total (M)",
    "published_parameters": "published (M)",
    "gmacs_dense": "GMACs",
    "gmacs_half_fine": "at r = 0.5",
    "published_gmacs": "published",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Examples: d2it models; d2it models --json."
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def main(arguments: argparse.Namespace) -> None:
    rows = models_table()
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    print("256 px, 1000 classes. GMACs are of one forward pass (a VAE: encode and decode);")
    print(
        "`layers` are DiT + RefineNet; at r = 0.5 RefineNet sees the fine tokens alone, window 4.\n"
        "{32, 16, 8} has two RefineNets; its r = 0.5 is half of the regions finest, a quarter of "
        "each other grain."
    )
    cells = [list(COLUMNS.values())] + [[_text(row[key]) for key in COLUMNS] for row in rows]
    print("\n".join(aligned(cells)))


def _text(value: str | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:g}" if value == round(value) else f"{value:.2f}"
