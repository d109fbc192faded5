"""results/<scale>/claims.md: what the paper claims beside what we find, and how it was found.

What was run comes first, a line for each pair of runs; what counts decide, what was not run, and
what neither can decide, is listed below.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from d2it.config import paths
from d2it.config.published import published
from d2it.config.run import run_of
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.files import write_text
from d2it.report import claims_words as words
from d2it.report.claims import CHANCE, Claims, asked, load_claims, needed
from d2it.report.claims_lines import AT_EQUAL_WORK, SO_FAR, compared, line_of, so_far, table
from d2it.report.effects import (
    Effect,
    Verdict,
    effect,
    effects,
    stand_together,
    supporting,
    verdict_of,
)
from d2it.report.equal_work import AtEqual
from d2it.report.results import made_with
from d2it.runs import provenance

DIFFERENCE = ["difference", "difference, %", *AT_EQUAL_WORK.values()]
SIDES = ["claim", "compared", "metric", "first", "second"]
COLUMNS = [*SIDES, "nearest", "GMACs", *DIFFERENCE, "paper's, %", "seeds", "verdict", "runs"]
BESIDE = [*SIDES, *DIFFERENCE, "seeds", "by this metric"]
COUNTED = ["claim", "compared", "of", "first", "second", "difference, %", "verdict", "better"]
BETTER: dict[Verdict, str] = {"holds": "better", "does not hold": "worse"}
Found = dict[str, list[Effect]]  # by the claim's id


def write_claims(config: Config, claims: Claims | None = None) -> Path:
    """The same bytes every time."""
    path = paths.claims(config)
    write_text(path, render(config, claims or load_claims()))
    return path


def render(config: Config, claims: Claims) -> str:
    claims = asked(claims, config)
    printed = {row["id"]: row for row in published("prose_claims")}
    known = claims.claims.keys() | claims.counted.keys() | claims.untested.keys()
    if unknown := printed.keys() ^ known:
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
        f"*Scale {config.name}. {config.caption_of(learnt_from(config, found))}*",
        "# What the paper claims, and what we find",
        counted_up(claims, found),
        how_made(config, claims, found),
        "## What was run",
        table(COLUMNS, _lines(claims, found)),
        _in_short(claims, found),
        *_beside(config, claims, found),
        "## What counts and published numbers decide",
        table(COUNTED, _of_counts(claims)),
        words.COUNTED,
        *(["## Not run", "\n".join(waiting)] if waiting else []),
        "## Not for these runs to decide",
        "\n".join(f"- {why}: {'; '.join(names)}." for why, names in reasons.items()),
    ]
    return "\n\n".join(parts) + "\n"


def learnt_from(config: Config, found: Found) -> list[str]:
    """The data sets of the runs that were made; of all that are asked for where none was."""
    every = [one for pairs in found.values() for one in pairs]
    pairs = [one.pair for one in every if one.found] or [one.pair for one in every]
    names = [name for pair in pairs for name, _ in pair.sides if name != CHANCE]
    return [run_of(config, name).data for name in names]


def counted_up(claims: Claims, found: Found) -> str:
    of_runs = [so_far(verdict_of(pairs), pairs) for pairs in found.values()]
    pairs = [so_far(one.verdict, [one]) for several in found.values() for one in several]
    of_counts = [_verdict(one.holds) for one in claims.counted.values()]
    return (
        f"Of {len(of_runs)} claims that runs can decide: {_counts(of_runs)}. "
        f"Of the {len(pairs)} comparisons that they are made of: {_counts(pairs)}. "
        f"Of {len(of_counts)} claims that counts and published numbers decide: "
        f"{_counts(of_counts)}."
    )


def _counts(verdicts: Sequence[str]) -> str:
    known = [f"{one}{far}" for one in get_args(Verdict) for far in ("", SO_FAR)]
    return ", ".join(f"{one}: {verdicts.count(one)}" for one in known if one in verdicts)


def _verdict(holds: bool) -> Verdict:
    return "holds" if holds else "does not hold"


def _in_short(claims: Claims, found: Found) -> str:
    every = [one for pairs in found.values() for one in pairs]
    worked = any(isinstance(said, AtEqual) for one in every for said in one.worked.values())
    single = any(one.single for one in every)
    parts = [
        words.IN_SHORT.format(level=100 * claims.level, together=together(claims, found)),
        *([words.SINGLE.format(gap=100 * claims.single.gap)] if single else []),
        *([words.WORKED] if worked else []),
        *([words.NOTHING_FINE] if any(map(_nothing_fine, every)) else []),
        words.RUN_SAYS,
    ]
    return " ".join(parts)


def _nothing_fine(one: Effect) -> bool:
    return bool(one.worked) and any(side.header["ratio"] == 0 for side in one.results)


def together(claims: Claims, found: Found) -> str:
    """Which differences stand when all are tested, each in the direction that was found."""
    standing = stand_together([one for pairs in found.values() for one in pairs], claims.level)
    said = dict.fromkeys(map(_as_found, standing))  # one pair may stand in two claims
    return words.TOGETHER.format("; ".join(said) or "none")


def _as_found(one: Effect) -> str:
    said = compared(one)
    if one.verdict != "does not hold":
        return said
    return f"{said.translate(str.maketrans('<>', '><'))}, against the paper"


def how_made(config: Config, claims: Claims, found: Found, commits: bool = True) -> str:
    """Hardware, code, and how images were made and measured."""
    made = [one for pairs in found.values() for pair in pairs for one in pair.results]
    drawn = [one for one in made if one.header["kind"] != "dvae"]
    references = {(one.recipe["reference_n"], one.recipe["reference"]) for one in drawn}
    facts = {
        "Trained on": [hardware(config, needed(claims, config))],
        "Commits": _commits(config, {one.header["run"] for one in made}) if commits else [],
        "FID's reference": sorted(f"{n} training images of {data}" for n, data in references),
    }
    said = [f"{what}: {', '.join(values)}." for what, values in facts.items() if values]
    return " ".join([*said, *made_with(drawn)])


def hardware(config: Config, runs: Sequence[str]) -> str:
    """What all of these were trained on, as far as it is known."""
    told = [(provenance.of_run(run_of(config, run)) or {}).get("training") for run in runs]
    devices = sorted({device for one in told if one for device in one["devices"]})
    if len(devices) > 1:
        raise UserError(
            f"The claims' runs were trained on {' and '.join(devices)}: results of different "
            "hardware do not stand in one table, so make them anew on one of these."
        )
    processors = sorted({one for each in told if each for one in each.get("processors", [])})
    known = f" ({'; '.join(processors)})" if processors and devices == ["cpu"] else ""
    return f"{devices[0]}{known}" if devices else "not recorded"


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
        claim = f"{name}: {claims.claims[name].says}: **{so_far(verdict, pairs)}**"
        for one in pairs if verdict != "not run" else []:
            lines.append({"claim": claim, **line_of(one)})
            claim = ""  # once
    return lines


def _of_counts(claims: Claims) -> list[dict[str, str]]:
    lines = []
    for name, counted in claims.counted.items():
        claim = f"{name}: {counted.says}: **{_verdict(counted.holds)}**"
        for holds, line in counted.lines():
            lines.append({"claim": claim, **line, "verdict": _verdict(holds)})
            claim = ""  # once
    return lines


def _beside(config: Config, claims: Claims, found: Found) -> list[str]:
    """The pairs that were run by metrics that decide no claim, and pairs that decide none."""
    lines = []
    for name, pairs in found.items():
        others = [effect(pair, claims, config) for pair in claims.claims[name].beside]
        shown = [one for one in others if one.found]
        for pair in (one.pair for one in (*pairs, *others) if one.found):
            shown += supporting(pair, claims, config)
        for one in shown:
            says = so_far(BETTER.get(one.verdict, one.verdict), [one]) if one.found else one.why
            lines.append({"claim": name, **line_of(one), "by this metric": says})
    if not lines:
        return []
    return ["## By other metrics and other runs", table(BESIDE, lines), words.BESIDE]


def _waiting(one: Effect) -> str:
    return f"{compared(one)} ({one.why})"
