"""d2it status [--watch [SECONDS]] [--json] [overrides]: where every run stands."""

import argparse
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict

from d2it.commands.options import add_config_arguments, config_here
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.jobs.outlook import Array, Left, arrays, left
from d2it.jobs.status import Status, statuses
from d2it.text import aligned, amount, duration

HEADINGS = ("run", "state", "images", "of", "done", "img/s", "left", "GPU h", "job", "node")
LEFT = ("run", "state", "job", "node")  # aligned to the left; the others are numbers
REFRESH = 5.0  # seconds
HOME_AND_CLEAR = "\x1b[H\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it status --watch scale=smoke. It reads files and asks Slurm, once a minute "
        "at most, so it works while Snakemake runs and after it died. For stopped runs, `images` "
        "counts what was saved. Encoding and evaluating are reckoned in one process, at the pace "
        "of what was made here; references, tables and figures are not in it."
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        const=str(REFRESH),
        metavar="SECONDS",
        help=f"update every so many seconds (default {REFRESH:g}), until Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    if arguments.watch and "=" in arguments.watch:  # `--watch scale=smoke`
        arguments.overrides.insert(0, arguments.watch)
        arguments.watch = str(REFRESH)
    every = _seconds(arguments.watch) if arguments.watch else None
    config = config_here(arguments)
    with suppress(KeyboardInterrupt) if every else nullcontext():
        while True:
            text = _as_json(config) if arguments.json else _page(config)
            screen = every and sys.stdout.isatty() and not arguments.json
            print(f"{HOME_AND_CLEAR}{text}" if screen else text, flush=True)
            if not every:
                return
            time.sleep(every)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise UserError(f"--watch {text}: give the seconds between two updates, 0.1 or more.")
    return seconds


def _as_json(config: Config) -> str:
    found = statuses(config)
    told = {
        "scale": config.name,
        "runs": [asdict(status) | {"share": status.share} for status in found],
        "arrays": [asdict(array) for array in arrays()],
        "left": {stage: asdict(rest) for stage, rest in left(config, found).items()},
    }
    return json.dumps(told, indent=1, ensure_ascii=False)


def _page(config: Config) -> str:
    found = statuses(config)
    width = shutil.get_terminal_size((100, 24)).columns
    counts: dict[str, int] = {}
    for status in found:
        if status.kind:
            counts[status.state] = counts.get(status.state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"Scale {config.name}, {time.strftime('%H:%M:%S')}: {told}."]
    lines += [*textwrap.wrap(outlook(left(config, found)), width), ""]
    lines += table(found, width)
    at_work = arrays()
    if at_work:
        lines += ["", *aligned([array_cells(array) for array in at_work], left=range(3))]
    for status in found:
        if status.error:
            sentence = f"{status.run} failed: {status.error}"
            lines += ["", *textwrap.wrap(sentence, width, subsequent_indent="  ")]
    return "\n".join(lines)


def outlook(rest: Mapping[str, Left]) -> str:
    """A sentence on what is left, where anything is and was measured."""
    times = [f"{stage} {duration(one.seconds)}" for stage, one in rest.items() if one.seconds]
    no_rate = [f"{stage} {one.unmeasured}" for stage, one in rest.items() if one.unmeasured]
    others = f"; runs without a rate yet: {', '.join(no_rate)}" if no_rate else ""
    said = f"Left at the rates so far, run after run: {', '.join(times)}{others}."
    return said if times else ""


def array_cells(array: Array) -> tuple[str, ...]:
    states = ", ".join(f"{count} {state}" for state, count in array.states.items())
    parts = f" of {array.parts} parts" if array.parts > 1 else ""
    return array.command, f"Slurm job {array.job}{parts}", states or "not known yet"


def table(found: Sequence[Status], width: int) -> list[str]:
    """Lines of at most `width` columns, without the columns that no run fills."""
    rows = [HEADINGS, *(cells(status) for status in found)]
    shown = [i for i in range(len(HEADINGS)) if any(row[i] for row in rows[1:])]
    left = [at for at, i in enumerate(shown) if HEADINGS[i] in LEFT]
    lines = [line[:width] for line in aligned([[row[i] for i in shown] for row in rows], left)]
    foreign = [i for i, status in enumerate(found) if status.kind is None]
    if foreign:
        lines.insert(foreign[0] + 1, "other settings")
    return lines


def cells(status: Status) -> tuple[str, ...]:
    share = status.share if status.images or status.state == "running" else None
    rate = status.images_per_second
    return (
        status.run if status.kind else f"  {status.folder}",
        status.state,
        amount(status.images) if status.images else "",
        amount(status.of) if status.of else "",
        "" if share is None else f"{int(100 * share)}%",
        "" if rate is None else f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}",
        "" if status.seconds_left is None else duration(status.seconds_left),
        "" if status.gpu_hours is None else f"{status.gpu_hours:.1f}",
        status.job or "",
        status.node or (f"({status.waits_for})" if status.waits_for and status.job else ""),
    )
