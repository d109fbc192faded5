"""d2it reference DATA: the Inception features that FID, precision and recall compare with."""

import argparse

from d2it import shares
from d2it.commands.options import add_config_arguments, add_wait_argument
from d2it.config import load, paths
from d2it.jobs.spread import spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it reference photos, after d2it prepare photos. D2IT_THREADS sets the number "
        "of CPU threads (default 1)."
    )
    parser.add_argument("data", metavar="DATA", help="a prepared data set, e.g. photos")
    shares.add_arguments(parser)
    add_wait_argument(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config, share = load(arguments.params, arguments.overrides), shares.share_of(arguments)
    made, folder = True, paths.reference(config, arguments.data)
    with spread(arguments, "reference", folder, share) as here:
        if here:
            from d2it.evaluation.reference import make_reference

            made = make_reference(config, arguments.data, share)
    if share is not None:
        print(f"Share {share} is done: run without --share to combine all shares.")
        return
    print(f"{folder} {'is ready' if made else 'is up to date'}.")
