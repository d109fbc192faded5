"""d2it prepare DATA: pack a data set's images at the training resolution."""

import argparse

from d2it.commands.options import add_config_arguments, add_wait_argument, positive, say_done
from d2it.config import load, paths
from d2it.images.packed import read_manifest
from d2it.images.prepare import prepare, problems_file
from d2it.runs.lease import making


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it prepare photos. Your own folder, zip, tar or parquet file: see "
        "docs/data.md. To resume, run the same command again."
    )
    parser.add_argument("data", metavar="DATA", help="a data set of the scale, e.g. photos")
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="number of decoding processes; output is identical (default: one per core if it pays)",
    )
    add_wait_argument(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = load(arguments.params, arguments.overrides)
    data = arguments.data
    folder = paths.images(config, data)
    with making(folder, arguments.wait):
        made = prepare(config, data, arguments.processes)
    say_done(folder, made)
    manifest = read_manifest(folder)
    for key in ("licence", "citation"):
        if manifest[key] != "not stated":
            print(f"{key.capitalize()}: {manifest[key]}")
    if manifest.get("left_out"):
        print(f"{manifest['left_out']} unreadable images were left out.")
    if problems_file(config, data).exists():
        print(f"{problems_file(config, data)} lists damaged and duplicate files.")
