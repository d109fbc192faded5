"""A comparison of the claims as a line of a table: its numbers as text."""

import math
from collections.abc import Sequence

from d2it.report.claims import CHANCE
from d2it.report.compute import DENSE, FINE, LIVE
from d2it.report.effects import HIGHER_IS_BETTER, Effect
from d2it.report.equal_work import AtEqual
from d2it.report.results import Result
from d2it.text import markdown_table

ABSENT = "–"
AT_EQUAL_WORK = {
    DENSE: "at equal work, dense, %",
    LIVE: "at equal work, live windows, %",
    FINE: "at equal work, fine only, %",
}
APART, SINGLE, SO_FAR = "†", "‡", " so far"


def line_of(one: Effect) -> dict[str, str]:
    """By column."""
    line = {"compared": compared(one), "metric": one.pair.metric}
    if one.pair.published:
        first, second = one.pair.published
        line["paper's, %"] = f"{100 * (first - second) / second:+.1f}"
    line |= {"seeds": f"{len(one.found)} of {one.asked}", "verdict": so_far(one.verdict, [one])}
    if not one.found:
        return line | {"runs": one.why}
    second, spread = one.average(1), (one.mean, one.low, one.high)
    if one.pair.than != CHANCE:
        if all("nearest" in result.metrics for result in one.results):
            line["nearest"] = ", ".join(f"{one.average(side, 'nearest'):.3g}" for side in (0, 1))
        if all("gmacs" in result.header for result in one.results):
            line["GMACs"] = ", ".join(map(_gmacs, one.found[0]))
        drawn_by = [side.recipe.get("grain_sha256") for side in one.found[0]]
        line["compared"] += f" {APART}" if drawn_by[0] != drawn_by[1] else ""
    line["compared"] += f" {SINGLE}" if one.single else ""
    line |= {AT_EQUAL_WORK[reading]: at_equal(one, said) for reading, said in one.worked.items()}
    return line | {
        "first": f"{one.average(0):.4g}",
        "second": f"{second:.4g}",
        "difference": span(*spread),
        "difference, %": span(*(100 * value / second for value in spread)),
        "runs": ", ".join(dict.fromkeys(map(_named, one.results))),
    }


def _gmacs(result: Result) -> str:
    """Of one pass: dense, and in brackets on the fine tokens alone, where that is less."""
    dense, fine = (f"{result.header['gmacs'][kind]:.3g}" for kind in ("dense", "sparse"))
    return dense if dense == fine else f"{dense} ({fine})"


def at_equal(one: Effect, found: AtEqual | str) -> str:
    """With the number of seeds where some were not measured then."""
    if isinstance(found, str):
        return found
    seeds = "" if found.seeds == len(one.found) else f" ({found.seeds} seeds)"
    return span(found.mean, found.low, found.high) + seeds


def _named(result: Result) -> str:
    """The run, and which of its evaluations where that is not the main one."""
    return result.run if result.label == "main" else f"{result.run} ({result.label})"


def so_far(verdict: str, effects: Sequence[Effect]) -> str:
    """The verdict, and whether seeds that the scale asks for may still change it."""
    lacking = any(0 < len(one.found) < one.asked for one in effects)
    return verdict + SO_FAR if lacking and verdict not in ("incomplete", "not run") else verdict


def compared(one: Effect) -> str:
    pair = one.pair
    sides = [run if label == "main" else f"{run} ({label})" for run, label in pair.sides]
    if pair.share is not None:
        sides[0] += f" at {100 * pair.share:.3g} %"
    better = ">" if pair.metric in HIGHER_IS_BETTER else "<"
    if pair.expect == "equal":
        return f"{' = '.join(sides)}, within {100 * pair.within:g} %"
    return f" {better} ".join(sides)


def table(columns: Sequence[str], lines: Sequence[dict[str, str]]) -> str:
    """Those of the columns in which something stands."""
    filled = [column for column in columns if any(line.get(column) for line in lines)]
    rows = [[line.get(column, ABSENT) for column in filled] for line in lines]
    return markdown_table(filled, rows) if rows else "Nothing yet."


def span(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3g}" + (f" [{low:+.3g}, {high:+.3g}]" if math.isfinite(low) else "")
