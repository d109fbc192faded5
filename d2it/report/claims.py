"""params/claims.yaml: the paper's claims as comparisons of runs, and what they are at a scale."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from d2it.clock import milestone
from d2it.config.experiments import Measured
from d2it.config.load import params_folder, read_typed
from d2it.config.ratios import numeric
from d2it.config.recipe import ratio_key, repeats_of
from d2it.config.run import Run, runs_of
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.report.counted import Counted

CHANCE = "chance"
NEAR = 0.002  # of a share of images: 800 epochs of ImageNet are 57.2 % of DiT's 7,000,000 steps


@dataclass(frozen=True)
class Pair:
    """Two evaluations that are compared."""

    run: str
    than: str = CHANCE  # a run; or what maps that nobody followed would give
    label: str = "main"  # of the run's evaluations; with a `*`, the one with the lowest FID
    than_label: str = "main"
    share: float | None = None  # of the images that the other one saw in all: the run's moment
    along: bool = False  # at every moment that both were measured at, instead of at their ends
    metric: str = "fid"  # `rfid` of a content run is its DVAE's, at the run's ratio
    expect: Literal["better", "equal"] = "better"
    within: float = 0.0  # share of the other's value that counts as equal
    published: list[float] | None = None  # the paper's two values
    also: list[str] = field(default_factory=list)  # metrics that are shown too, and decide nothing
    otherwise: "Pair | None" = None  # where the scale lacks a run or label of this one

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.run, self.label), (self.than, self.than_label)

    @property
    def of_whole_trainings(self) -> bool:
        """Of two networks that draw, each after all of its training."""
        labels = {self.label, self.than_label}
        return labels == {"main"} and self.share is None and self.metric != "rfid"


@dataclass(frozen=True)
class Claim:
    says: str
    pairs: list[Pair]
    beside: list[Pair] = field(default_factory=list)  # that are shown too, and decide nothing


@dataclass(frozen=True)
class Single:
    """What decides where there is one training of each."""

    gap: float  # share of the other's FID below which nothing is decided
    n: int  # images that both FIDs must be of


@dataclass(frozen=True)
class Claims:
    level: float  # of the intervals
    single: Single
    claims: dict[str, Claim]  # by id, in order of priority
    counted: dict[str, Counted] = field(default_factory=dict)
    untested: dict[str, str] = field(default_factory=dict)  # id: why


def load_claims(path: Path | None = None) -> Claims:
    return read_typed(Claims, path or params_folder() / "claims.yaml", "claims")


def asked(claims: Claims, config: Config) -> Claims:
    """The claims with the runs and labels that this scale has for them.

    Raises the sentence for the first that it has none for; what stands beside a claim is left out.
    """
    runs = runs_of(config)
    found = {}
    for name, claim in claims.claims.items():
        for pair in claim.pairs:
            if lack := _lack(pair, runs):
                raise UserError(
                    f"Claim {name} of params/claims.yaml names {lack}, which scale {config.name} "
                    "does not have: add it to the scale, or take one that has it, such as mini."
                )
        beside = [pair for pair in claim.beside if not _lack(pair, runs)]
        found[name] = Claim(
            claim.says,
            [one for pair in claim.pairs for one in _settled(pair, runs)],
            [one for pair in beside for one in _settled(pair, runs)],
        )
    return replace(claims, claims=found)


def needed(claims: Claims, config: Config) -> list[str]:
    """The runs of the scale that the claims are held against, in order of priority."""
    every = asked(claims, config).claims.values()
    pairs = [pair for claim in every for pair in (*claim.pairs, *claim.beside)]
    runs = dict.fromkeys(run for pair in pairs for run, _ in pair.sides if run != CHANCE)
    return [repeat for run in runs for repeat in repeats_of(config, run)]


def labels_of(pair: Pair, side: int, runs: dict[str, Run]) -> list[str]:
    """The evaluations that one side of a pair may be, among those that the scale asks for."""
    name, pattern = pair.sides[side]
    run = runs[name]
    if run.kind == "dvae":
        labels = [f"r{ratio_key(ratio)}" for ratio in numeric(run.spec.ratios)]
    else:
        labels = list(run.evaluations)
    if side == 0 and pair.share is not None:
        at = pair.share * runs[pair.than].images / run.images
        labels = [label for label in labels if abs(run.evaluations[label].at - at) <= NEAR]
        if pattern == "main":
            return [label for label in labels if label in along(run).values()]
    return [label for label in labels if fnmatchcase(label, pattern)]


def along(run: Run) -> dict[int, str]:
    """By images seen: the evaluations that differ from the main one in their moment alone."""
    main, batch = run.evaluations.get("main", Measured()), run.training.batch
    return {
        milestone(one.at, run.images, batch): label
        for label, one in run.evaluations.items()
        if replace(one, at=main.at) == main
    }


def _shared(run: Run, than: Run) -> list[tuple[str, str]]:
    """Evaluations of both after as many images, ascending."""
    return [
        (label, other)
        for seen, label in sorted(along(run).items())
        for also_seen, other in along(than).items()
        if abs(seen - also_seen) <= NEAR * seen
    ]


def _lack(pair: Pair, runs: dict[str, Run]) -> str:
    """The run or the label that the scale lacks, of the pair and of what may stand for it."""
    if not (lack := _lack_of_one(_of_dvaes(pair, runs), runs)) or pair.otherwise is None:
        return lack
    return lack if _lack(pair.otherwise, runs) else ""


def _lack_of_one(pair: Pair, runs: dict[str, Run]) -> str:
    for name, _ in pair.sides:
        if name not in (*runs, CHANCE):
            return f"the run {name}"
    if pair.along:
        shared = _shared(runs[pair.run], runs[pair.than])
        return "" if shared else f"moments that {pair.run} and {pair.than} share"
    for side, (name, label) in enumerate(pair.sides):
        if name != CHANCE and not labels_of(pair, side, runs):
            at = f" at {pair.share:.4g} of {pair.than}'s images" if pair.share and not side else ""
            return f"the evaluation {label} of {name}{at}"
    return ""


def _settled(pair: Pair, runs: dict[str, Run]) -> Iterator[Pair]:
    """The comparisons that a pair stands for at this scale, which has all that they need."""
    direct = _of_dvaes(pair, runs)
    if _lack_of_one(direct, runs):
        assert pair.otherwise is not None  # else it is lacked
        yield from _settled(pair.otherwise, runs)
    elif pair.along:
        for label, than_label in _shared(runs[pair.run], runs[pair.than]):
            yield replace(pair, label=label, than_label=than_label, along=False)
    else:
        yield direct


def _of_dvaes(pair: Pair, runs: dict[str, Run]) -> Pair:
    """Reconstructions of a content run are those of its DVAE at its ratio, as in Figure 5."""
    sides = []
    for name, label in pair.sides:
        if pair.metric == "rfid" and name in runs and runs[name].kind == "content":
            name, label = runs[name].dvae.name, f"r{ratio_key(runs[name].ratio)}"
        sides.append((name, label))
    (run, label), (than, than_label) = sides
    return replace(pair, run=run, label=label, than=than, than_label=than_label)
