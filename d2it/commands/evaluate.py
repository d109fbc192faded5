"""d2it evaluate RUN: sample from a run and measure it; or measure any folder of images."""

import argparse

from d2it import arrays
from d2it.cli import add_config_arguments
from d2it.config import load, paths
from d2it.config.recipe import kind_of
from d2it.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: d2it evaluate d2it_b scale=smoke; "
        "d2it evaluate --images samples/ --reference photos/ --json. "
        "An evaluation that was stopped goes on when the command is repeated. D2IT_THREADS sets "
        "the number of CPU threads (default 1)."
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run of the scale, e.g. d2it_b")
    folders = parser.add_argument_group("anybody's images, instead of a run's")
    folders.add_argument("--images", metavar="DIR", help="folder of images to measure")
    folders.add_argument("--reference", metavar="DIR", help="folder of images to compare with")
    folders.add_argument("--protocol", choices=("clean", "adm"), default="clean")
    folders.add_argument("--n", type=int, help="images that the protocol asks for (default: all)")
    folders.add_argument("--json", action="store_true", help="print the whole recipe as JSON")
    arrays.add_arguments(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    folders = arguments.images or arguments.reference
    if bool(arguments.run) == bool(folders) or bool(arguments.images) != bool(arguments.reference):
        raise UserError("Name one run, or two folders: --images DIR and --reference DIR.")
    if folders:
        from d2it.evaluation.folders import compare_folders, show

        show(
            compare_folders(arguments.images, arguments.reference, arguments.protocol, arguments.n),
            arguments.json,
        )
        return
    config, share = load(arguments.params, arguments.overrides), arrays.share_of(arguments)
    has_units = kind_of(config, arguments.run) in ("content", "dit")
    if not arrays.spread(arguments, "evaluate", has_units):
        from d2it.evaluation.evaluate import evaluate

        evaluate(config, arguments.run, share)
    if share is not None:
        print(f"Share {share} is there: the command without --shard puts them together.")
        return
    print(f"{paths.evaluation(config, arguments.run)} is ready.")
