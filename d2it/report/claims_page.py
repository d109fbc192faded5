"""results/<scale>/claims.md: what the paper claims beside what we find, and how it was found.

What was run comes first, a line for each pair of runs; what was not run, and what no run can
decide, is listed below.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from d2it.config import paths
from d2it.config.published import published
from d2it.config.run import run_of
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.files import write_text
from d2it.report.claims import (
    HIGHER_IS_BETTER,
    AtEqual,
    Claims,
    Effect,
    Verdict,
    effect,
    hardware,
    load_claims,
    needed,
    stand_together,
    supporting,
    verdict_of,
)
from d2it.report.results import Result, made_with
from d2it.runs import provenance
from d2it.text import markdown_table

ABSENT = "–"
COLUMNS = [
    "claim",
    "compared",
    "metric",
    "first",
    "second",
    "nearest",
    "GMACs",
    "difference",
    "difference, %",
    "at equal work, %",
    "paper's, %",
    "seeds",
    "verdict",
    "runs",
]
BESIDE = [
    *COLUMNS[:5],
    "difference",
    "difference, %",
    "at equal work, %",
    "seeds",
    "by this metric",
]
BETTER: dict[Verdict, str] = {"holds": "better", "does not hold": "worse"}
IN_SHORT = (
    "In brackets: Student's {level:g} % interval of the mean difference over training seeds. "
    "*Holds*: all of it is on the paper's side, or, where two are said to be equal, within the "
    "share that is named. *Does not hold*: all of it is on the other. *Not decidable*: it has room "
    "for either answer. *Incomplete*: some pair was not run. *So far*: some of the seeds that the "
    "scale asks for have not been run. {apart}: the maps of the two sides are not drawn by one "
    "grain network, and of each grain network there is one training. Intervals leave out the "
    "scatter of DVAE, grain network and sampling noise, except where DVAEs are compared. Each "
    "verdict is of its comparison alone; comparisons share runs. {together}{work}"
)
TOGETHER = "Tested all at once, by Holm's correction, these differences stand: {}."
WORKED = (
    " At equal work: the dearer of the two networks is taken at the moment when its training had "
    "taken as many multiplications as the other's in all, on the line between measured moments; "
    "the grain network, one for all sizes, is not counted. *Equal*: both do the same work anyway. "
    "*Not measured*: the dearer one was not evaluated along the way."
)
SUMMARY = [*COLUMNS[:1], "verdict", "difference, %", "paper's, %", "seeds"]
SUMMARY_SAYS = (
    "*Difference*: by how many per cent the claim's first FID is above (+) or below (−) the second "
    "(rFID for reconstructions), one for each comparison, with Student's {level:g} % interval over "
    "training seeds. *So far*: some planned seeds have not been run. Each verdict is of its "
    "comparison alone. {together}"
)
RUN_SAYS = (
    "Differences are paired: both methods of a seed see the same images in the same order. What "
    "differs between seeds is the training of the content network or DiT: DVAE, grain network and"
    " the noise of maps and samples are the same for all. Nothing is corrected for seeds that were "
    "added after a look at the others. Verdicts are at equal steps. `GMACs`, "
    "first and second: of one pass, as it was computed; the grain network's are not in it. "
    "`nearest`, first and second: the distance of samples from the training images over that of "
    "held-out ones, here other crops of the same photographs; far below 1 is memorisation."
)
APART, SO_FAR = "†", " so far"
BESIDE_SAYS = (
    "These decide no claim; *better* and *worse* are said of the first. `epsilon_error` is the "
    "error of the predicted noise on held-out crops, the same noise and times for all; `_0` and "
    "`_1` are over coarse and over fine regions. It compares networks on the same latents alone, "
    "of one DVAE and one routing: where a D²iT has one code and one noise for a coarse region, a "
    "DiT has four, so their errors are of different tasks. With and without the dynamic grain loss "
    "the sum that is minimised weighs the grains otherwise: there each grain stands for itself. "
    "`obedience` is the share of regions that came out as the map asked. `psnr` and `lpips` are of "
    "reconstructions of held-out crops."
)
Found = dict[str, list[Effect]]  # by the claim's id


def write_claims(config: Config, claims: Claims | None = None) -> Path:
    """The same bytes every time."""
    path = paths.claims(config)
    write_text(path, render(config, claims or load_claims()))
    return path


def render(config: Config, claims: Claims) -> str:
    printed = {row["id"]: row for row in published("prose_claims")}
    unknown = printed.keys() ^ (claims.claims.keys() | claims.untested.keys())
    if unknown:
        raise UserError(
            f"params/claims.yaml and data/published/prose_claims.csv differ in {min(unknown)}: "
            "every claim stands in both."
        )
    found = effects(config, claims)
    waiting = [
        f"- {name}: {claims.claims[name].says}: {'; '.join(map(_waiting, pairs))}."
        for name, pairs in found.items()
        if verdict_of(pairs) == "not run"
    ]
    reasons: dict[str, list[str]] = {}
    for name, why in claims.untested.items():
        reasons.setdefault(why, []).append(f"{name} {printed[name]['claim']}")
    parts = [
        f"*Scale {config.name}. {config.caption}*",
        "# What the paper claims, and what we find",
        _counted(found),
        _how(config, claims, found),
        "## What was run",
        _table(COLUMNS, _lines(claims, found)),
        f"{_in_short(claims, found)} {RUN_SAYS}",
        *_beside(config, claims, found),
        *(["## Not run", "\n".join(waiting)] if waiting else []),
        "## Not for these runs to decide",
        "\n".join(f"- {why}: {'; '.join(names)}." for why, names in reasons.items()),
    ]
    return "\n\n".join(parts) + "\n"


def summary(config: Config) -> str:
    """A line for each claim, for docs/mini.md."""
    claims = load_claims()
    found = effects(config, claims)
    lines = []
    for name, pairs in found.items():
        verdict, several = _so_far(verdict_of(pairs), pairs), [_line(one) for one in pairs]
        line = {"claim": f"{name}: {claims.claims[name].says}", "verdict": f"**{verdict}**"}
        for column in SUMMARY[2:]:
            line[column] = "; ".join(one.get(column, ABSENT) for one in several)
        lines.append(line)
    legend = SUMMARY_SAYS.format(level=100 * claims.level, together=_together(claims, found))
    parts = [
        f"*Scale {config.name}. {config.caption}*",
        _counted(found),
        _table(SUMMARY, lines),
        f"{legend}{_at_equal_work(claims, found, config)}",
        _how(config, claims, found, commits=False),
    ]
    return "\n\n".join(parts)


def _at_equal_work(claims: Claims, found: Found, config: Config) -> str:
    """What is left of the differences, also of pairs that stand beside a claim."""
    pairs = [one for several in found.values() for one in several]
    pairs += [effect(p, claims.level, config) for c in claims.claims.values() for p in c.beside]
    left = [
        f"{_compared(one)}: {_at_equal(one, one.worked)} % (at equal steps "
        f"{100 * one.mean / one.average(1):+.3g} %)"
        for one in pairs
        if one.worked
    ]
    if not left:
        return ""
    return f" At equal work in place of equal steps, where that was measured: {'; '.join(left)}."


def effects(config: Config, claims: Claims) -> Found:
    return {
        name: [effect(pair, claims.level, config) for pair in claim.pairs]
        for name, claim in claims.claims.items()
    }


def _counted(found: Found) -> str:
    claims = [_so_far(verdict_of(pairs), pairs) for pairs in found.values()]
    comparisons = [_so_far(one.verdict, [one]) for pairs in found.values() for one in pairs]
    return (
        f"Of {len(claims)} claims that runs can decide: {_counts(claims)}. "
        f"Of the {len(comparisons)} comparisons that they are made of: {_counts(comparisons)}."
    )


def _counts(verdicts: Sequence[str]) -> str:
    known = [f"{one}{far}" for one in get_args(Verdict) for far in ("", SO_FAR)]
    return ", ".join(f"{one}: {verdicts.count(one)}" for one in known if one in verdicts)


def _in_short(claims: Claims, found: Found) -> str:
    worked = any(one.worked for pairs in found.values() for one in pairs)
    return IN_SHORT.format(
        level=100 * claims.level,
        apart=APART,
        together=_together(claims, found),
        work=WORKED if worked else "",
    )


def _together(claims: Claims, found: Found) -> str:
    """Which differences stand when all are tested, each in the direction that was found."""
    standing = stand_together([one for pairs in found.values() for one in pairs], claims.level)
    return TOGETHER.format("; ".join(map(_as_found, standing)) or "none")


def _as_found(one: Effect) -> str:
    said = _compared(one)
    if one.verdict != "does not hold":
        return said
    return f"{said.translate(str.maketrans('<>', '><'))}, against the paper"


def _how(config: Config, claims: Claims, found: Found, commits: bool = True) -> str:
    """Hardware, code, and how images were made and measured."""
    made = [one for pairs in found.values() for pair in pairs for one in pair.results]
    drawn = [one for one in made if one.header["kind"] != "dvae"]
    facts = {
        "Trained on": [hardware(config, needed(claims, config))],
        "Commits": _commits(config, {one.header["run"] for one in made}) if commits else [],
        "FID's reference": sorted({_reference(one.recipe) for one in drawn}),
    }
    said = [f"{what}: {', '.join(values)}." for what, values in facts.items() if values]
    return " ".join([*said, *made_with(drawn)])


def _reference(recipe: dict[str, Any]) -> str:
    return f"{recipe['reference_n']} training images of {recipe['reference']}"


def _commits(config: Config, runs: Iterable[str]) -> list[str]:
    """Of the code that trained and evaluated these, as far as it is known."""
    told = [provenance.of_run(run_of(config, run)) or {} for run in runs]
    commits = [c for one in told for c in (one.get("training") or {}).get("commits", [])]
    commits += [one.get("commit") for one in told]
    return sorted({commit[:8] for commit in commits if commit})


def _lines(claims: Claims, found: Found) -> list[dict[str, str]]:
    """A line for each pair of the claims that were run, at least in part."""
    lines = []
    for name, pairs in found.items():
        verdict = verdict_of(pairs)
        claim = f"{name}: {claims.claims[name].says}: **{_so_far(verdict, pairs)}**"
        for one in pairs if verdict != "not run" else []:
            lines.append({"claim": claim, **_line(one)})
            claim = ""  # once
    return lines


def _line(one: Effect) -> dict[str, str]:
    line = {"compared": _compared(one), "metric": one.pair.metric}
    if one.pair.published:
        first, second = one.pair.published
        line["paper's, %"] = f"{100 * (first - second) / second:+.1f}"
    line |= {"seeds": f"{len(one.found)} of {one.asked}", "verdict": _so_far(one.verdict, [one])}
    if not one.found:
        return line | {"runs": one.why}
    second, spread = one.average(1), (one.mean, one.low, one.high)
    if all("nearest" in result.metrics for result in one.results):
        line["nearest"] = ", ".join(f"{one.average(side, 'nearest'):.3g}" for side in (0, 1))
    if all("gmacs" in result.header for result in one.results):
        line["GMACs"] = ", ".join(f"{side.header['gmacs']['dense']:.3g}" for side in one.found[0])
    drawn_by = [side.recipe.get("grain_sha256") for side in one.found[0]]
    if drawn_by[0] != drawn_by[1]:
        line["compared"] += f" {APART}"
    if one.worked:
        line["at equal work, %"] = _at_equal(one, one.worked)
    elif one.pair.of_whole_trainings and one.pair.run != one.pair.than and "GMACs" in line:
        line["at equal work, %"] = "equal" if _same_work(one) else "not measured"
    return line | {
        "first": f"{one.average(0):.4g}",
        "second": f"{second:.4g}",
        "difference": _span(*spread),
        "difference, %": _span(*(100 * value / second for value in spread)),
        "runs": ", ".join(dict.fromkeys(map(_named, one.results))),
    }


def _same_work(one: Effect) -> bool:
    first, second = (side.header["gmacs"]["dense"] for side in one.found[0])
    return bool(first == second)


def _at_equal(one: Effect, found: AtEqual) -> str:
    """With the number of seeds where some were not measured then."""
    seeds = "" if found.seeds == len(one.found) else f" ({found.seeds} seeds)"
    return _span(found.mean, found.low, found.high) + seeds


def _named(result: Result) -> str:
    """The run, and which of its evaluations where that is not the main one."""
    return result.run if result.label == "main" else f"{result.run} ({result.label})"


def _so_far(verdict: str, effects: Sequence[Effect]) -> str:
    """The verdict, and whether seeds that the scale asks for may still change it."""
    lacking = any(0 < len(one.found) < one.asked for one in effects)
    return verdict + SO_FAR if lacking and verdict not in ("incomplete", "not run") else verdict


def _beside(config: Config, claims: Claims, found: Found) -> list[str]:
    """The pairs that were run by metrics that decide no claim, and pairs that decide none."""
    lines = []
    for name, pairs in found.items():
        others = [effect(pair, claims.level, config) for pair in claims.claims[name].beside]
        shown = [one for one in others if one.found]
        for pair in (one.pair for one in (*pairs, *others) if one.found):
            shown += supporting(pair, claims.level, config)
        for one in shown:
            says = _so_far(BETTER.get(one.verdict, one.verdict), [one]) if one.found else one.why
            lines.append({"claim": name, **_line(one), "by this metric": says})
    if not lines:
        return []
    return [
        "## By other metrics and other runs",
        _table(BESIDE, lines),
        BESIDE_SAYS,
    ]


def _waiting(one: Effect) -> str:
    return f"{_compared(one)} ({one.why})"


def _compared(one: Effect) -> str:
    sides = [run if label == "main" else f"{run} ({label})" for run, label in one.pair.sides]
    better = ">" if one.pair.metric in HIGHER_IS_BETTER else "<"
    if one.pair.expect == "equal":
        return f"{' = '.join(sides)}, within {100 * one.pair.within:g} %"
    return f" {better} ".join(sides)


def _table(columns: Sequence[str], lines: Sequence[dict[str, str]]) -> str:
    """Those of the columns in which something stands."""
    filled = [column for column in columns if any(line.get(column) for line in lines)]
    rows = [[line.get(column, ABSENT) for column in filled] for line in lines]
    return markdown_table(filled, rows) if rows else "Nothing yet."


def _span(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3g}" + (f" [{low:+.3g}, {high:+.3g}]" if math.isfinite(low) else "")
