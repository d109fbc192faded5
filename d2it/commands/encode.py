"""d2it encode DVAE [overrides]: cache its data set's latents, and measure them at its ratios."""

import argparse

from d2it.commands.options import add_shared_arguments, say_done
from d2it.jobs.spread import spread
from d2it.shares import share_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it encode dvae scale=smoke. Run the same command again to go on after an "
        "interruption, or to add ratios to latents that are there."
    )
    parser.add_argument("dvae", metavar="DVAE", help="a DVAE run that is trained, e.g. dvae")
    add_shared_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    from d2it.config import load
    from d2it.config.run import run_of
    from d2it.errors import UserError

    config = load(arguments.params, arguments.overrides)
    run, share = run_of(config, arguments.dvae), share_of(arguments)
    if run.kind != "dvae":
        raise UserError(f"{run.name} is not a DVAE run: name one of {', '.join(config.runs.dvae)}.")

    done = True
    with spread(arguments, "encode", run.latents, share) as here:
        if here:
            from d2it.latents.encode import encode

            done = encode(run, share)
    say_done(run.latents, done, share)
