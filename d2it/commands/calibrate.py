"""d2it calibrate DATA: measure a data set's entropy quantiles (Eq 2-3)."""

import argparse

from d2it.commands.options import add_config_arguments, add_wait_argument, positive, say_done
from d2it.config import Config, load, paths

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: d2it calibrate photos scale=smoke, after d2it prepare photos."
    parser.add_argument(
        "data", metavar="DATA", help="a prepared data set of the scale, e.g. photos"
    )
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="number of processes; the result is identical (default: one per core if it pays)",
    )
    add_wait_argument(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    from d2it.grains.calibrate import calibrate
    from d2it.runs.lease import making

    config, data = load(arguments.params, arguments.overrides), arguments.data
    path = paths.thresholds(config, data)
    with making(path, arguments.wait):
        made = calibrate(config, data, arguments.processes)
    say_done(path, made)
    print_foreign_shares(config, data)


def print_foreign_shares(config: Config, data: str) -> None:
    """What the thresholds of another data set, if they rule this one, make of its regions; nothing
    while they are not measured.
    """
    from d2it.config.recipe import regions_of, thresholds_source
    from d2it.grains.thresholds import Thresholds, thresholds_of

    source = thresholds_source(config, data)
    if source == data or not paths.thresholds(config, source).is_file():
        return
    for region in regions_of(config, data):
        ruling = thresholds_of(config, data, region)
        own = Thresholds.load(paths.thresholds(config, data), region=region, kernel=config.kernel)
        shares = ", ".join(f"{r:g} gives {own.above(ruling.cut(r)[0]):.3f}" for r in RATIOS)
        print(
            f"With the thresholds of {source}, the shares of fine regions of {region} px are: "
            f"{shares}."
        )
