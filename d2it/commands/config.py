"""d2it config [overrides]: print the composed configuration, or write it for DVC."""

import argparse

import yaml

from d2it.commands.options import add_config_arguments
from d2it.config.load import compose, read_composed, validate
from d2it.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write", metavar="FILE", help="write it, e.g. to params.yaml, instead of printing it"
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    composed = read_composed(arguments.params) if arguments.params else compose(arguments.overrides)
    validate(composed)
    text = yaml.safe_dump(composed, sort_keys=False, allow_unicode=True, width=100)
    if arguments.write:
        write_text(arguments.write, text)
    else:
        print(text, end="")
