"""How far a workflow is: stage by stage what is done, running and left, and one estimate of it all.

A stage takes for the rest what it has taken so far for its cost (d2it/cost); until it is measured,
the pace of all stages counts. A training tells its own pace.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from d2it.config.recipe import KINDS
from d2it.config.schema import Config
from d2it.config.study import ITEMS, load_study
from d2it.cost.plan import price_data, price_run, runs_behind
from d2it.cost.rate import rate_of
from d2it.jobs.status import statuses
from d2it.machine.gpus import GPUS, find_gpu
from d2it.text import aligned, duration

VERBS = ("fetch", "prepare", "calibrate", "reference", "train", "encode", "evaluate", "table")
HEADINGS = ("stage", "done", "running", "left", "")


def prices(config: Config) -> dict[tuple[str, str], float]:
    """(rule, its run or data set) -> what it costs, in hours of some GPU: only shares count."""
    rate = rate_of(find_gpu(next(iter(GPUS))))
    runs = runs_behind(config, load_study(), ITEMS)
    found = {}
    for data in dict.fromkeys(run.data for run in runs):
        found["reference", data] = price_data(config, data, rate).hours["reference"]
    for run in runs:
        for verb, hours in price_run(run, rate).hours.items():
            found["encode" if verb == "encode" else f"{verb}_{run.kind}", run.name] = hours
    return found


@dataclass(frozen=True)
class Training:
    """By its own log: seconds of all of it, and those left."""

    whole: float
    left: float


def trainings(config: Config) -> dict[str, Training]:
    """Those that run now."""
    return {
        one.run: Training(one.of / one.images_per_second, one.seconds_left)
        for one in statuses(config)
        if one.of and one.images_per_second and one.seconds_left is not None
    }


@dataclass(frozen=True)
class Job:
    rule: str
    target: str
    begun: float  # seconds of a clock

    @property
    def trains(self) -> bool:
        return self.rule.startswith("train_")


@dataclass
class Progress:
    counts: dict[str, int]  # rule -> jobs
    cores: int
    costs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    running: dict[int, Job] = field(default_factory=dict)
    taken: dict[str, list[tuple[Job, float]]] = field(default_factory=dict)  # seconds of ended ones
    seen: dict[str, Training] = field(default_factory=dict)  # of every training that was looked at

    def begin(self, number: int, job: Job) -> None:
        self.running[number] = job

    def end(self, number: int, now: float) -> Job | None:
        """It is done. A training that was resumed counts whole."""
        job = self.running.pop(number, None)
        if job:
            seconds = now - job.begun
            if job.trains and job.target in self.seen:
                seconds = max(seconds, self.seen[job.target].whole)
            self.taken.setdefault(job.rule, []).append((job, seconds))
        return job

    def fail(self, number: int) -> None:
        self.running.pop(number, None)

    @property
    def done(self) -> int:
        return sum(map(len, self.taken.values()))

    def left(self, now: float, training: Mapping[str, Training]) -> float | None:
        """Seconds; None before anything is measured."""
        self.seen |= training
        paces, alone = self._paces(training), self._alone()
        if not paces:
            return None
        # hours have one pace where a stage has none
        usual = sum(s for s, _ in paces.values()) / sum(c for _, c in paces.values())

        def seconds(rule: str, cost: float | None) -> float:
            if cost is None:
                return alone
            took, cost_of_it = paces.get(rule, (usual, 1.0))
            return cost * took / cost_of_it

        waiting = sum(
            count * seconds(rule, self._mean_cost(rule)) for rule, count in self.waiting().items()
        )
        ends = []
        for job in self.jobs():
            whole = seconds(job.rule, self.costs.get((job.rule, job.target)))
            own = training.get(job.target) if job.trains else None
            ends.append(own.left if own else max(0.0, whole - (now - job.begun)))
        return max([(waiting + sum(ends)) / self.cores, *ends])

    def jobs(self) -> list[Job]:
        return list(self.running.values())

    def waiting(self) -> dict[str, int]:
        busy = [job.rule for job in self.jobs()]
        return {
            rule: count - len(self.taken.get(rule, ())) - busy.count(rule)
            for rule, count in self.counts.items()
        }

    def _paces(self, training: Mapping[str, Training]) -> dict[str, tuple[float, float]]:
        """Rule -> seconds and cost of what has been measured of it."""
        measured = [pair for jobs in self.taken.values() for pair in jobs]
        measured += [
            (job, training[job.target].whole)
            for job in self.jobs()
            if job.trains and job.target in training
        ]
        found: dict[str, tuple[float, float]] = {}
        for job, seconds in measured:
            cost = self.costs.get((job.rule, job.target))
            if cost:
                before = found.get(job.rule, (0.0, 0.0))
                found[job.rule] = (before[0] + seconds, before[1] + cost)
        return found

    def _alone(self) -> float:
        """Seconds of a job whose cost is not counted: a table, a figure."""
        priced = {rule for rule, _ in self.costs}
        times = [s for rule, jobs in self.taken.items() if rule not in priced for _, s in jobs]
        return fmean(times) if times else 0.0

    def _mean_cost(self, rule: str) -> float | None:
        """Of the jobs of a rule that have not begun: of which run they are is not known."""
        begun = {job.target for job in self.jobs() if job.rule == rule}
        begun |= {job.target for job, _ in self.taken.get(rule, ())}
        of_rule = {target: cost for (name, target), cost in self.costs.items() if name == rule}
        rest = [cost for target, cost in of_rule.items() if target not in begun]
        return fmean(rest) if rest else None

    def headline(self, left: float | None) -> str:
        total = sum(self.counts.values())
        told = "no estimate yet" if left is None else f"about {duration(left)} left"
        return f"{self.done} of {total} jobs done, {told if self.done < total else 'nothing left'}"

    def table(self) -> list[str]:
        """A line for each stage."""
        waiting = self.waiting()
        rows: list[tuple[str, ...]] = [HEADINGS]
        for rule in self.counts:
            now = [job.target for job in self.jobs() if job.rule == rule]
            counts = (len(self.taken.get(rule, ())), len(now), waiting[rule])
            rows.append((stage(rule), *map(str, counts), ", ".join(now)))
        return aligned(rows, left=(0, 4))


def stage(rule: str) -> str:
    return rule.replace("_", " ")


def in_order(rule: str) -> tuple[int, int]:
    """Stages as the data pass through them; figures and the page are last."""
    verb, _, kind = rule.partition("_")
    return (
        VERBS.index(verb) if verb in VERBS else len(VERBS),
        KINDS.index(kind) if kind in KINDS else 0,
    )
