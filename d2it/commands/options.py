"""Options that several verbs take."""

import argparse
from typing import Literal

from d2it.errors import UserError


def positive(text: str) -> int:
    """The type of options that count something."""
    if int(text) < 1:
        raise ValueError
    return int(text)


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
