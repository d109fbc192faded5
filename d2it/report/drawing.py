"""What the figures share: colours, marks, and the words below them."""

from typing import Any

from d2it.config.schema import Config
from d2it.report.results import Gap, result

# Okabe and Ito's vermilion and blue: told apart by every kind of colour vision, and in grey.
VERMILION, BLUE, GREY = "#D55E00", "#0072B2", "#555555"
COLOURS = {"DiT": BLUE, "D²iT": VERMILION}
MARKS = {"DiT": "s", "D²iT": "o"}
HOLLOW: dict[str, Any] = {"marker": "o", "fillstyle": "none", "markersize": 8}


def absent(runs: list[str], config: Config) -> list[str]:
    """Sentences that name the runs without numbers, and say why."""
    whys: dict[str, list[str]] = {}
    for run in dict.fromkeys(runs):
        found = result(config, run)
        if isinstance(found, Gap):
            whys.setdefault(found.why, []).append(run)
    return [f"{why.capitalize()}: {', '.join(runs)}." for why, runs in whys.items()]


def short(number: float) -> str:
    """6400 -> 6.4 k, 1.8e9 -> 1,800 M."""
    if number < 1e3:
        return f"{number:g}"
    return f"{number / 1e6:,g} M" if number >= 1e6 else f"{number / 1e3:,g} k"
