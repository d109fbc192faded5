"""results/<scale>/claims.md: the paper's claims, each held against runs of ours.

An effect is the difference of a metric between two runs of the same training seed, which saw the
same images in the same order. Its t-interval over the training seeds decides, at equal steps. Where
the runs' provenance tells how long they took, the same is said at equal seconds: the slower one is
taken at the moment when the faster one ended, between the moments at which it was measured.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import yaml

from d2it import provenance
from d2it.config import paths
from d2it.config.build import build
from d2it.config.load import params_folder
from d2it.config.recipe import kind_of, repeats_of
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.files import write_text
from d2it.report.results import Gap, Result, published, result, scale_line
from d2it.report.study import at_scale
from d2it.report.text import markdown_table

COLUMNS = (
    "id",
    "compared",
    "metric",
    "first",
    "second",
    "difference",
    "%",
    "at equal seconds",
    "paper's %",
    "seeds",
    "verdict",
    "runs",
)
Verdict = Literal["holds", "does not hold", "not decidable", "not run"]


@dataclass(frozen=True)
class Pair:
    """Two evaluations that are compared."""

    run: str
    than: str
    label: str = "main"  # of the run's evaluations; with a `*`, the one with the lowest FID
    than_label: str = "main"
    metric: str = "fid"
    expect: Literal["lower", "equal"] = "lower"
    within: float = 0.0  # share of the other's value that counts as equal
    published: list[float] | None = None  # the paper's two values

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.run, self.label), (self.than, self.than_label)


@dataclass(frozen=True)
class Claim:
    says: str
    pairs: list[Pair]


@dataclass(frozen=True)
class Claims:
    level: float  # of the intervals
    claims: dict[str, Claim]  # by id, in order of priority
    untested: dict[str, str] = field(default_factory=dict)  # id: why


@dataclass(frozen=True)
class Effect:
    """Of one pair, over training seeds."""

    pair: Pair
    ours: list[float]  # by seed, where both sides are evaluated
    others: list[float]
    runs: list[str]  # with their digests
    low: float
    high: float
    verdict: Verdict
    why: str = ""  # it is not run
    timed: tuple[float, float, float] | None = None  # at equal seconds: mean and interval

    @property
    def mean(self) -> float:
        return statistics.fmean(self.ours) - statistics.fmean(self.others)


def load_claims(path: Path | None = None) -> Claims:
    path = path or params_folder() / "claims.yaml"
    try:
        return build(Claims, yaml.safe_load(path.read_text()), "claims")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def needed(claims: Claims, config: Config) -> list[str]:
    """The runs of the scale that the claims are held against, in order of priority."""
    experiments = [run for c in claims.claims.values() for p in c.pairs for run, _ in p.sides]
    runs = [run for name in dict.fromkeys(experiments) for run in repeats_of(config, name)]
    return [run for run in runs if at_scale(config, run)]


def interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Student's t-interval of the mean; of a single difference nothing is known."""
    from scipy.stats import t

    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return -math.inf, math.inf
    half = t.ppf((1 + level) / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


def effect(pair: Pair, level: float, config: Config) -> Effect:
    """The pair's differences, seed by seed, and what they say."""
    ours, others, names, why = [], [], dict[str, None](), ""
    for runs in zip(repeats_of(config, pair.run), repeats_of(config, pair.than), strict=False):
        sides = zip(runs, pair.sides, strict=True)
        found = [_found(config, run, label, pair.metric) for run, (_, label) in sides]
        values = [one.metrics[pair.metric] for one in found if isinstance(one, Result)]
        if len(values) == 2:
            ours.append(values[0])
            others.append(values[1])
            names |= dict.fromkeys(one.run for one in found if isinstance(one, Result))
        else:
            why = next(one.why for one in found if isinstance(one, Gap))
    if not ours:
        return Effect(pair, [], [], [], -math.inf, math.inf, "not run", why)
    low, high = interval([a - b for a, b in zip(ours, others, strict=True)], level)
    verdict = decide(low, high, pair.within * statistics.fmean(others), pair.expect)
    timed = _timed(pair, level, config)
    return Effect(pair, ours, others, list(names), low, high, verdict, timed=timed)


def _timed(pair: Pair, level: float, config: Config) -> tuple[float, float, float] | None:
    """The mean difference at equal seconds and its interval; None: it cannot be known."""
    if {pair.label, pair.than_label} != {"main"} or pair.metric == "rfid":
        return None
    differences = []
    for runs in zip(repeats_of(config, pair.run), repeats_of(config, pair.than), strict=False):
        times = [seconds(config, run) for run in runs]
        known = [one for one in times if one is not None]
        if len(known) < 2:
            continue
        values = [
            _moment(config, run, pair.metric, min(known) / own)
            for run, own in zip(runs, known, strict=True)
        ]
        if values[0] is not None and values[1] is not None:
            differences.append(values[0] - values[1])
    if not differences:
        return None
    return statistics.fmean(differences), *interval(differences, level)


def seconds(config: Config, run: str) -> float | None:
    """Of the training of `run`, by its provenance."""
    said = (provenance.of_run(config, run) or {}).get("training")
    return said["seconds"] if said and said["seconds"] > 0 else None


def _moment(config: Config, run: str, metric: str, share: float) -> float | None:
    """The metric after this share of the training, on the line between two measured moments."""
    settings = getattr(config.runs, kind_of(config, run))[run].evaluations
    alike = {m.at: label for label, m in settings.items() if replace(m, at=1.0) == settings["main"]}
    points = []
    for at, label in sorted(alike.items()):
        found = _found(config, run, label, metric)
        if isinstance(found, Result):
            points.append((at, found.metrics[metric]))
    for (early, a), (late, b) in pairwise([*points, *points[-1:]]):
        if early <= share <= late:
            return a if late == early else a + (b - a) * (share - early) / (late - early)
    return None


def hardware(config: Config, runs: Sequence[str]) -> str:
    """What all of these were trained on, as far as it is known."""
    told = [(provenance.of_run(config, run) or {}).get("training") for run in runs]
    devices = sorted({device for one in told if one for device in one["devices"]})
    if len(devices) > 1:
        raise UserError(
            f"The claims' runs were trained on {' and '.join(devices)}: results of different "
            "hardware do not stand in one table, so make them anew on one of these."
        )
    return devices[0] if devices else "not recorded"


def _found(config: Config, run: str, label: str, metric: str) -> Result | Gap:
    found = result(config, run, label)
    lacks = isinstance(found, Result) and metric not in found.metrics
    return Gap(f"evaluated without {metric}") if lacks else found


def decide(low: float, high: float, margin: float, expect: str) -> Verdict:
    """What an interval of differences says."""
    if expect == "equal":
        if -margin <= low and high <= margin:
            return "holds"
        return "does not hold" if high < -margin or low > margin else "not decidable"
    if high < 0:
        return "holds"
    return "does not hold" if low > 0 else "not decidable"


def verdict_of(effects: Sequence[Effect]) -> Verdict:
    """A claim falls with any of its pairs and stands with all."""
    worst: tuple[Verdict, ...] = ("does not hold", "not run", "not decidable", "holds")
    return min((one.verdict for one in effects), key=worst.index)


def write_claims(config: Config, claims: Claims | None = None) -> Path:
    """results/<scale>/claims.md, the same bytes every time."""
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
    found = {
        name: [effect(pair, claims.level, config) for pair in claim.pairs]
        for name, claim in claims.claims.items()
    }
    verdicts = [
        [name, _paper(printed[name]), claim.says, verdict_of(found[name])]
        for name, claim in claims.claims.items()
    ]
    rest = [[name, _paper(printed[name]), "", why] for name, why in claims.untested.items()]
    lines = [_line(name, one) for name, effects in found.items() for one in effects]
    decided = sum(row[3] in ("holds", "does not hold") for row in verdicts)
    parts = [
        f"*{scale_line(config, 'claims')}*",
        "# What the paper claims, and what we find",
        f"Trained on: {hardware(config, needed(claims, config))}.",
        f"Decided: {decided} of {len(verdicts)} claims that runs can decide.",
        markdown_table(["id", "the paper", "tested as", "verdict"], verdicts + rest),
        "Effects are differences over training seeds, paired: both methods of a seed see the same "
        f"images in the same order. Intervals are Student's, {100 * claims.level:g} % each, of the "
        "mean difference; a single seed has none. Not decidable: the interval holds both answers. "
        "Verdicts are at equal steps; at equal seconds the slower one is taken at the moment when "
        "the faster one ended.",
        markdown_table(COLUMNS, lines),
    ]
    return "\n\n".join(parts) + "\n"


def _paper(row: dict[str, str]) -> str:
    return f"{row['claim']}: {row['value']}"


def _line(name: str, one: Effect) -> list[str]:
    pair, absent = one.pair, "–"
    sides = [run if label == "main" else f"{run} ({label})" for run, label in pair.sides]
    relation = "=" if pair.expect == "equal" else "<"
    paper = absent
    if pair.published:
        first, second = pair.published
        paper = f"{100 * (first - second) / second:+.1f}"
    if one.verdict == "not run":
        numbers = [absent] * 5 + [paper, "0", one.verdict, one.why]
    else:
        second = statistics.fmean(one.others)
        numbers = [
            f"{statistics.fmean(one.ours):.4g}",
            f"{second:.4g}",
            _span(one.mean, one.low, one.high),
            f"{100 * one.mean / second:+.1f}",
            _span(*one.timed) if one.timed else absent,
            paper,
            str(len(one.ours)),
            one.verdict,
            ", ".join(one.runs),
        ]
    return [name, f" {relation} ".join(sides), pair.metric, *numbers]


def _span(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3g}" + (f" [{low:+.3g}, {high:+.3g}]" if math.isfinite(low) else "")
