"""d2it reference DATA: the Inception features that FID, precision and recall compare with."""

import argparse

from d2it import shares
from d2it.commands.options import add_config_arguments
from d2it.config import load, paths
from d2it.jobs.spread import spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it reference photos, after d2it prepare photos. D2IT_THREADS sets the number "
        "of CPU threads (default 1)."
    )
    parser.add_argument("data", metavar="DATA", help="a prepared data set, e.g. photos")
    shares.add_arguments(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config, share = load(arguments.params, arguments.overrides), shares.share_of(arguments)
    made = True
    if not spread(arguments, "reference"):
        from d2it.evaluation.reference import make_reference

        made = make_reference(config, arguments.data, share)
    if share is not None:
        print(f"Share {share} is done: run without --shard to combine all shares.")
        return
    print(f"{paths.reference(config, arguments.data)} {'is ready' if made else 'is up to date'}.")
