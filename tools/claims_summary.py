"""The claims in short, for docs/mini.md: a line for each, and what is left at equal work."""

from d2it.config.schema import Config
from d2it.report.claims import Claims, asked, load_claims
from d2it.report.claims_lines import ABSENT, compared, line_of, so_far, span, table
from d2it.report.claims_page import Found, counted_up, how_made, learnt_from, together
from d2it.report.compute import DENSE, FINE, LIVE
from d2it.report.effects import Effect, effect, effects, verdict_of
from d2it.report.equal_work import AtEqual

COLUMNS = ["claim", "verdict", "difference, %", "paper's, %", "seeds"]
LEGEND = (
    "*Difference*: by how many per cent the claim's first FID is above (+) or below (−) the second "
    "(rFID for reconstructions, agreement of regions for maps), one for each comparison, with "
    "Student's {level:g} % interval over training seeds. *So far*: some planned seeds have not "
    "been run. Each verdict is of its comparison alone. {together}"
)
AT_EQUAL_WORK = (
    "What is left at equal work. *Dense*: all of RefineNet's windows are counted, as they were "
    "computed. *Live windows*: those with a fine region, as `skip_windows` computes them. *Fine "
    "only*: the fine regions' own tokens, the least there can be."
)
READINGS = {DENSE: "dense, %", LIVE: "live windows, %", FINE: "fine only, %"}


def summary(config: Config, counts: bool = True) -> str:
    """The claims that were run at a scale; counts are the same at all."""
    claims = asked(load_claims(), config)
    found = effects(config, claims)
    lines = []
    for name, pairs in found.items():
        if (verdict := so_far(verdict_of(pairs), pairs)) == "not run":
            continue
        several = [line_of(one) for one in pairs if one.found] or [line_of(one) for one in pairs]
        line = {"claim": f"{name}: {claims.claims[name].says}", "verdict": f"**{verdict}**"}
        for column in COLUMNS[2:]:
            line[column] = "; ".join(one.get(column, ABSENT) for one in several)
        lines.append(line)
    for name, one in claims.counted.items() if counts else ():
        verdict = "holds" if one.holds else "does not hold"
        gaps = "; ".join(line["difference, %"] for _, line in one.lines())
        counted = {"claim": f"{name}: {one.says}", "verdict": f"**{verdict}**"}
        lines.append(counted | {"difference, %": gaps, "seeds": "by counts"})
    parts = [
        f"*Scale {config.name}. {config.caption_of(learnt_from(config, found))}*",
        counted_up(claims, found),
        table(COLUMNS, lines),
        LEGEND.format(level=100 * claims.level, together=together(claims, found)),
        *_at_equal_work(claims, found, config),
        how_made(config, claims, found, commits=False),
    ]
    return "\n\n".join(parts)


def _at_equal_work(claims: Claims, found: Found, config: Config) -> list[str]:
    """What is left of the differences, also of pairs that stand beside a claim."""
    pairs = [one for several in found.values() for one in several]
    pairs += [effect(p, claims, config) for c in claims.claims.values() for p in c.beside]
    lines = {compared(one): _left(one) for one in pairs if _measured(one)}
    if not lines:
        return []
    columns = ["compared", "at equal steps, %", *READINGS.values()]
    return [AT_EQUAL_WORK, table(columns, [{"compared": k} | v for k, v in lines.items()])]


def _measured(one: Effect) -> bool:
    return any(isinstance(said, AtEqual) for said in one.worked.values())


def _left(one: Effect) -> dict[str, str]:
    second = one.average(1) / 100
    steps = span(*(value / second for value in (one.mean, one.low, one.high)))
    said = {
        READINGS[reading]: left if isinstance(left, str) else span(left.mean, left.low, left.high)
        for reading, left in one.worked.items()
    }
    return {"at equal steps, %": steps} | said
