"""d2it config [overrides]: print the composed configuration, write it for DVC, or explain it."""

import argparse

import yaml

from d2it.commands.options import add_config_arguments
from d2it.config.load import compose, read_composed, validate
from d2it.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: d2it config scale=paper; d2it config --explain training.content.batch; "
        "d2it config scale=mini --write params.yaml."
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--write", metavar="FILE", help="write it, e.g. to params.yaml, instead of printing it"
    )
    instead.add_argument(
        "--explain",
        metavar="SETTING",
        help="say what a setting means, what sets it, and which runs it decides, e.g. "
        "training.content.batch; of a table, what is in it (all settings: docs/settings.md)",
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    composed = read_composed(arguments.params) if arguments.params else compose(arguments.overrides)
    config = validate(composed)
    if arguments.explain:
        from d2it.config.explain import explain

        print(explain(config, arguments.explain, arguments.params, arguments.overrides))
        return
    text = yaml.safe_dump(composed, sort_keys=False, allow_unicode=True, width=100)
    if arguments.write:
        write_text(arguments.write, text)
    else:
        print(text, end="")
