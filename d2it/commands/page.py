"""d2it page [overrides]: every table, figure and run of a scale as one page."""

import argparse

from d2it.commands.options import add_config_arguments, config_here
from d2it.config.study import load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it page scale=demo. Writes results/<scale>/index.html, which needs no network, "
        "and its pictures in results/<scale>/samples/. What is not made yet is named."
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = config_here(arguments)
    from d2it.report.page import write_page

    print(f"Written: {write_page(load_study(), config)}")
