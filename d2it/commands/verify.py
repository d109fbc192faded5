"""d2it verify: check the sha256 of every fetched file, or of all that a scale has made."""

import argparse

from d2it.runs.verify import verify_made
from d2it.sources.fetch import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it verify --made paper. It ends with 2 if a file is damaged, and says what "
        "makes it again; of the fetched files, missing ones are named."
    )
    parser.add_argument(
        "--made",
        metavar="SCALE",
        help="instead of the fetched files, read the images, references, latents, models and "
        "galleries of this scale: stages compare the sizes of large files, and this every bit",
    )


def main(arguments: argparse.Namespace) -> None:
    if arguments.made:
        verify_made(arguments.made)
    else:
        verify()
