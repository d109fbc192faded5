"""d2it figure N [overrides]: draw one of the paper's figures, or 7, as PNG and SVG."""

import argparse

from d2it.commands.options import add_config_arguments, config_here
from d2it.config.study import load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it figure 4 scale=demo. Writes results/<scale>/figures/figure_4.png and .svg."
    )
    parser.add_argument("number", type=int, choices=range(3, 8), help="3 to 6, or 7: ours")
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = config_here(arguments)
    from d2it.report.figures import write_figure

    paths = write_figure(load_study(), f"figure_{arguments.number}", config)
    print("Written: " + ", ".join(map(str, paths)))
