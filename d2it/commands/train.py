"""d2it train RUN: train one run to its end, from wherever it stands, and publish its model."""

import argparse
import sys

from d2it.commands.options import add_config_arguments, add_wait_argument
from d2it.config.load import load
from d2it.config.run import run_of
from d2it.jobs.launch import launch
from d2it.jobs.launcher import load_launcher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it train d2it_b scale=smoke. To resume, run the same command again; to train "
        "longer, raise training.<kind>.images."
    )
    parser.add_argument(
        "run", help="an experiment of params/experiment/, e.g. d2it_b; `d2it study` lists them"
    )
    parser.add_argument(
        "--launcher",
        metavar="NAME",
        help="a file of params/launcher/ or any other .yaml, then changed fields, e.g. "
        '"slurm resources.account=vision" (default: $D2IT_LAUNCHER, else local)',
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes on this machine (default: the launcher's)",
    )
    add_wait_argument(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    run = run_of(load(arguments.params, arguments.overrides), arguments.run)
    launcher = load_launcher(arguments.launcher)
    from d2it.runs.signals import Stopped

    try:
        launch(run, launcher, arguments.wait, arguments.processes)
    except Stopped as stopped:
        print(
            f"d2it: {stopped} ended the training of {arguments.run}: run the same command again to "
            "go on.",
            file=sys.stderr,
        )
        raise SystemExit(128 + stopped.signum) from None
