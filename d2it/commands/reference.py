"""d2it reference DATA: the Inception features that FID, precision and recall compare with."""

import argparse

from d2it.commands.options import add_shared_arguments, say_done
from d2it.config import load, paths
from d2it.jobs.spread import spread
from d2it.shares import share_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it reference photos, after d2it prepare photos. D2IT_THREADS sets the number "
        "of CPU threads (default 1)."
    )
    parser.add_argument("data", metavar="DATA", help="a prepared data set, e.g. photos")
    add_shared_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config, share = load(arguments.params, arguments.overrides), share_of(arguments)
    made, folder = True, paths.reference(config, arguments.data)
    with spread(arguments, "reference", folder, share) as here:
        if here:
            from d2it.evaluation.reference import make_reference

            made = make_reference(config, arguments.data, share)
    say_done(folder, made, share)
