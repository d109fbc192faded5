"""d2it encode DVAE [overrides]: cache its data set's latents, and measure them at its ratios."""

import argparse

from d2it import shares
from d2it.commands.options import add_config_arguments, add_wait_argument
from d2it.jobs.spread import spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it encode dvae scale=smoke. Run the same command again to go on after an "
        "interruption, or to add ratios to latents that are there."
    )
    parser.add_argument("dvae", metavar="DVAE", help="a DVAE run that is trained, e.g. dvae")
    shares.add_arguments(parser)
    add_wait_argument(parser)
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    from d2it.config import load
    from d2it.config.run import run_of
    from d2it.errors import UserError

    config = load(arguments.params, arguments.overrides)
    run, share = run_of(config, arguments.dvae), shares.share_of(arguments)
    if run.kind != "dvae":
        raise UserError(f"{run.name} is not a DVAE run: name one of {', '.join(config.runs.dvae)}.")

    done = True
    with spread(arguments, "encode", run.latents, share) as here:
        if here:
            from d2it.latents.encode import encode

            done = encode(run, share)
    if share is not None:
        print(f"Share {share} is done: run without --share to combine all shares.")
        return
    print(f"{run.latents} {'is ready' if done else 'is up to date'}.")
