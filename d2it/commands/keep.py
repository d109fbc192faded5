"""d2it keep RUN ...: copy trained models to where git finds them, for later seeds."""

import argparse

from d2it.commands.options import add_config_arguments, config_here
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.runs.keep import keep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it keep dvae grain scale=mini_cpu; then git add results/mini_cpu/kept. "
        "`d2it train` takes a kept model of the same settings in place of training."
    )
    add_config_arguments(parser, "run|key=value", "trained runs, and Hydra overrides")


def main(arguments: argparse.Namespace) -> None:
    runs = [word for word in arguments.overrides if "=" not in word]
    if not runs:
        raise UserError("Name the runs to keep, e.g. d2it keep dvae grain scale=mini_cpu.")
    arguments.overrides = [word for word in arguments.overrides if "=" in word]
    config = config_here(arguments)
    for run in [run_of(config, name) for name in runs]:
        keep(run)
        print(f"{run.name}: kept in {run.kept}")
