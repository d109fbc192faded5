"""d2it claims [overrides]: hold the paper's claims against the runs of a scale."""

import argparse

from d2it.commands.options import add_config_arguments, config_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: d2it claims scale=mini; d2it claims --runs scale=mini. Writes "
        "results/<scale>/claims.md. params/claims.yaml says which runs decide which claim."
    )
    parser.add_argument(
        "--runs",
        action="store_true",
        help="only list the runs that the claims need, the most important first",
    )
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = config_here(arguments)
    from d2it.report.claims import load_claims, needed

    if arguments.runs:
        print("\n".join(needed(load_claims(), config)))
        return
    from d2it.report.claims_page import write_claims

    path = write_claims(config)
    print(path.read_text(encoding="utf-8"), end="")
    print(f"\nWritten: {path}")
