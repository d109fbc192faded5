"""d2it export RUN --out FOLDER: a trained run as a folder that stands alone."""

import argparse
from pathlib import Path

from d2it.commands.options import add_config_arguments, weights_of
from d2it.config.check import check_guidance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it export d2it_xl_classes --out my-d2it, then in Python: "
        'd2it.load("my-d2it").sample(n=4, label=3, seed=0).'
    )
    parser.add_argument("run", metavar="RUN", help="a trained content or DiT run, e.g. d2it_b")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--weights",
        metavar="ema|raw|WIDTH",
        default="ema",
        help="averaged (default), raw, or the published average of this relative width",
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="scale; 1: none (default: 1)")
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    from d2it.config import load
    from d2it.config.experiments import Measured
    from d2it.config.run import run_of

    check_guidance(arguments.guidance)
    config = load(arguments.params, arguments.overrides)
    from d2it.sampling.export import export

    measured = Measured(guidance=arguments.guidance, weights=weights_of(arguments.weights))
    export(run_of(config, arguments.run), arguments.out, measured)
    print(f'{arguments.out} is ready: d2it.load("{arguments.out}").sample(n=4) draws from it.')
