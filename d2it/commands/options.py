"""Options that several verbs take."""

import argparse
from pathlib import Path
from typing import Literal

from d2it.config import Config, load, paths
from d2it.errors import UserError
from d2it.shares import Share


def positive(text: str) -> int:
    """The type of options that count something."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def ratio_of(text: str) -> float | list[float]:
    """The type of --ratio: one share, or those of the finer grains, 0.3,0.2."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no share or shares, e.g. 0.3") from None
    return values[0] if len(values) == 1 else values


def weights_of(text: str) -> Literal["ema", "raw"] | float:
    """The value of --weights: which of a run's weights are meant."""
    if text == "ema":
        return "ema"
    if text == "raw":
        return "raw"
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"--weights is {text!r}, but must be ema, raw, or the relative width of an average, "
            "e.g. 0.08."
        ) from None


def add_wait_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="if another process is at this already, wait until it ends, then go on",
    )


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a stage whose units processes share."""
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes on this machine; output is identical (default: the launcher's, 1)",
    )
    parser.add_argument(
        "--share",
        metavar="I/N",
        help="compute only the I-th of N shares, e.g. on N machines that share a disk; then "
        "run without it to combine them",
    )
    add_wait_argument(parser)
    add_config_arguments(parser)


def say_done(place: Path, made: bool, share: Share | None = None) -> None:
    if share is not None:
        print(f"Share {share} is done: run without --share to combine all shares.")
    else:
        print(f"{place} {'is ready' if made else 'is up to date'}.")


def add_config_arguments(
    parser: argparse.ArgumentParser,
    words: str = "key=value",
    meaning: str = "Hydra overrides, e.g. scale=smoke ratio=0.7",
) -> None:
    """--params and overrides, as every verb that reads the configuration takes them."""
    parser.add_argument(
        "--params", metavar="FILE", help="a composed configuration (default: compose params/)"
    )
    parser.add_argument("overrides", nargs="*", metavar=words, help=meaning)


def config_here(arguments: argparse.Namespace) -> Config:
    """The configuration of a command that gathers what a study has made, which must be here."""
    config = load(arguments.params, arguments.overrides)
    if arguments.params is None:
        paths.require_study(config)
    return config
