"""d2it table N [overrides]: write one of the paper's tables, or 6, as CSV, Markdown and LaTeX."""

import argparse

from d2it.commands.options import add_config_arguments, config_here
from d2it.config.study import load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it table 3 scale=demo. Writes results/<scale>/tables/table_3.csv, .md, .tex. "
        "Runs that are missing are marked."
    )
    parser.add_argument("number", type=int, choices=range(1, 7), help="1 to 5, or 6: ours")
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = config_here(arguments)
    from d2it.report.tables import write_table

    paths = write_table(load_study(), f"table_{arguments.number}", config)
    print(paths[1].read_text(encoding="utf-8"), end="")
    print("\nWritten: " + ", ".join(map(str, paths)))
