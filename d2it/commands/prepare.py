"""d2it prepare DATA: pack a data set's images at the training resolution."""

import argparse

from d2it.cli import add_config_arguments
from d2it.config import load, paths
from d2it.data.prepare import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Your own folder: d2it prepare photos data.photos.source=/my/images ..."
    parser.add_argument("data", metavar="DATA", help="a data set of the scale, e.g. photos")
    parser.add_argument(
        "--workers", type=int, help="processes that decode (default: one per core if it pays)"
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = load(arguments.params, arguments.overrides)
    made = prepare(config, arguments.data, arguments.workers)
    print(f"{paths.images(config, arguments.data)} {'is ready' if made else 'is up to date'}.")
