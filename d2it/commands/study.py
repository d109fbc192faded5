"""d2it study [--json] [overrides]: every run, its inputs, and the cells that it fills."""

import argparse
import json
from typing import Any

from d2it.commands.options import add_config_arguments
from d2it.config.load import load
from d2it.config.study import at_scale, cells, heading, listing, load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: d2it study scale=paper."
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = load(arguments.params, arguments.overrides)
    study = load_study()
    runs = listing(study, config)
    absent = [
        {"run": run, "cell": f"{heading(item)} ({what})"}
        for item, run, what in cells(study, config)
        if not at_scale(config, run)
    ]
    if arguments.json:
        value = {"scale": config.name, "runs": runs, "not_at_this_scale": absent}
        print(json.dumps(value, indent=1, ensure_ascii=False))
        return
    print(
        f"Scale {config.name}: {len(runs)} runs. {config.caption_of(config.task.values())}".rstrip()
    )
    for kind in dict.fromkeys(run["kind"] for run in runs):
        print(f"\n{kind}")
        for run in runs:
            if run["kind"] == kind:
                print(describe(run))
    if absent:
        print("\nnot at this scale")
        for cell in absent:
            print(f"  {cell['run']:<32} {cell['cell']}")


def describe(run: dict[str, Any]) -> str:
    """A line for the run, its folder and inputs, and one for each cell it fills."""
    lines = [f"  {run['run']:<24} {run['folder']:<32} from {', '.join(run['inputs'])}"]
    return "\n".join([*lines, *(f"      fills {cell}" for cell in run["fills"])])
