"""d2it verify: check the sha256 of every fetched file."""

import argparse

from d2it.data.fetch import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it verify. It ends with 2 if a file is damaged; missing ones are named."
    )


def main(arguments: argparse.Namespace) -> None:
    verify()
