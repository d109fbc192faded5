"""Points of a curve, as benchmarks/scaling.py measures them, fitted: a row of the page for each."""

import itertools
from typing import Any

import numpy as np

from benchmarks.common import spread

LINES = ("ratio", "runs")  # what a fixed part and a part for each is asked of


def fitted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for (cost, over), points in itertools.groupby(rows, lambda row: (row["cost"], row["over"])):
        several = list(points)
        x, seconds = ([point[key] for point in several] for key in ("x", "seconds"))
        macs = [point["gmacs"] for point in several if "gmacs" in point]
        found.append(
            {
                "cost": cost,
                "over": over,
                "x": ", ".join(f"{value:,g}" for value in x),
                "seconds": f"{seconds[0]:.3g} – {seconds[-1]:.3g}",
                "spread, %": f"{100 * max(spread(point['rounds']) for point in several):.0f}",
                "exponent": f"{exponent(x, seconds):.2f}" if x[0] else "",
                "MACs'": f"{exponent(x, macs):.2f}" if macs and x[0] else "",
                "line": spelt_line(over, x, seconds, macs) if over in LINES else "",
            }
        )
    return found


def exponent(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def spelt_line(over: str, x: list[float], seconds: list[float], macs: list[float]) -> str:
    """Of y = fixed + each x."""
    each, fixed = np.polyfit(x, seconds, 1)
    if over != "ratio":
        return f"{fixed:.3g} s + {each * 1e3:.3g} ms each"
    more, base = np.polyfit(x, macs, 1)
    return f"1 + {each / fixed:.2f} x (MACs: 1 + {more / base:.2f} x)"
