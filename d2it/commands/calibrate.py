"""d2it calibrate DATA: measure a data set's entropy quantiles (Eq 2-3)."""

import argparse

from d2it.cli import add_config_arguments
from d2it.config import load, paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: d2it calibrate photos scale=smoke, after d2it prepare photos."
    parser.add_argument(
        "data", metavar="DATA", help="a prepared data set of the scale, e.g. photos"
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    from d2it.calibration import calibrate

    config = load(arguments.params, arguments.overrides)
    made = calibrate(config, arguments.data)
    print(f"{paths.thresholds(config, arguments.data)} {'is ready' if made else 'is up to date'}.")
