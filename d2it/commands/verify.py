"""d2it verify: check the sha256 of every fetched file, or of all that a scale has made."""

import argparse

from d2it.config.typed import check_name
from d2it.runs.verify import verify_made
from d2it.sources.fetch import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it verify --made paper. If a file is damaged, the exit code is 2 and the "
        "command that remakes it is shown."
    )
    parser.add_argument(
        "--made",
        metavar="SCALE",
        help="check all that this scale has made instead, what runs go on from, and the tables in "
        "git that it rests on: every byte, where the stages themselves only compare sizes of large "
        "files",
    )


def main(arguments: argparse.Namespace) -> None:
    if arguments.made:
        verify_made(check_name(arguments.made, "--made"))
    else:
        verify()
