"""d2it metrics [overrides]: gather what the paper prints of each run, for `dvc metrics diff`."""

import argparse

from d2it.commands.options import add_config_arguments, config_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it metrics scale=smoke. Writes results/<scale>/metrics.json. Runs that are not "
        "evaluated are left out."
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    from d2it.report.metrics import write_metrics

    print(f"Written: {write_metrics(config_here(arguments))}")
