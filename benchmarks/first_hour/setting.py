"""At which sizes the checks run, what `d2it plan` expects of them, and what they find. No torch."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from d2it.config import Config, load
from d2it.config.experiments import Measured
from d2it.config.protocols import METRICS, OF_RUNS
from d2it.config.run import run_of
from d2it.cost.plan import Price, price_data, price_run
from d2it.cost.rate import ASSUMED, Rate
from d2it.machine.gpus import GPUS, identify

DVAE, THREE = "dvae", "dvae_three"
# one of each kind and size that the published study has, and one of three grains
TRAINED = (
    DVAE,
    *("grain_classes", "dit_b_classes", "dit_l_classes", "dit_xl_classes"),
    *("d2it_b_classes", "d2it_l_classes", "d2it_xl_classes", "d2it_b_three"),
)
DRAWN = "d2it_xl_classes"  # what is sampled and evaluated
TOGETHER = (DVAE, "d2it_b_three")  # what two GPUs share
GUIDED = Measured(guidance=1.5)  # how images are sampled; they are evaluated without guidance
SLOWER = 1.25  # times the planned seconds: up to that a check is as fast as planned
LARGER = 1.15  # times the planned memory
START = 60.0  # seconds in which a process imports, loads and compiles: no plan knows of them


@dataclass(frozen=True)
class Setting:
    """Where the checks run. A simulated device says nothing about speed or memory."""

    gpu: str  # as its driver calls it
    simulated: bool

    @property
    def images(self) -> int:
        return 16 if self.simulated else 64

    @cached_property
    def config(self) -> Config:
        return configuration("smoke" if self.simulated else "paper", self.images)

    @property
    def judged(self) -> bool:
        """Whether seconds can be compared with the plan's: the GPU's peaks are known."""
        return not self.simulated and identify(self.gpu) is not None

    @cached_property
    def plan(self) -> "Expected":
        """Before anything was measured. A GPU that is not known, or none, counts as an A100."""
        gpu = None if self.simulated else identify(self.gpu)
        return Expected(self.config, Rate(gpu or GPUS["a100"], ASSUMED, {}))


@dataclass(frozen=True)
class Expected:
    """Seconds, by `d2it plan`."""

    config: Config
    rate: Rate

    def price(self, run: str) -> Price:
        return price_run(run_of(self.config, run), self.rate)

    def step(self, run: str) -> float:
        price = self.price(run)
        return 3600 * price.hours["train"] / price.steps

    def encoding(self) -> float:
        return 3600 * self.price(DVAE).hours["encode"]

    def sampling(self) -> float:
        """Features of the images are in it too: they cost little."""
        content = self.config.runs.content
        spec = replace(content[DRAWN], evaluations={"main": GUIDED})
        runs = replace(self.config.runs, content=content | {DRAWN: spec})
        guided = replace(self, config=replace(self.config, runs=runs))
        return 3600 * guided.price(DRAWN).hours["evaluate"]

    def evaluation(self) -> float:
        reference = price_data(self.config, run_of(self.config, DRAWN).data, self.rate)
        hours = [self.price(run).hours["evaluate"] for run in (DVAE, DRAWN)]
        return 3600 * (reference.hours["reference"] + sum(hours))


def configuration(scale: str, images: int) -> Config:
    """The scale with one data set for both tasks, one first stage, and short evaluations."""
    task = load(overrides=[f"scale={scale}"]).task["conditional"]
    data = {
        f"data.{task}.source": "noise.tar",
        f"data.{task}.crop": "[1.0,1.0]",
        f"data.{task}.images": images,
        f"data.{task}.train": images,
        f"data.{task}.test": images,
        f"data.{task}.reference": images,
    }
    one = {
        "task.unconditional": task,
        "first_stage.classes": DVAE,
        "first_stage.classes_r100": DVAE,
        f"runs.dvae.{DVAE}.ratios": "[0.0,${ratio},1.0,random]",  # DiT's is 1
        "dvae_loss.gan_start": 0,  # the discriminator at work from the first step on
        "evaluation.n": images,
        "evaluation.seeds": "[0]",
        "evaluation.metrics": f"[{','.join([*METRICS, *OF_RUNS])}]",
    }
    three = "+experiment@runs=[dvae_three,grain_three,d2it_b_three]"
    settings = [f"{key}={value}" for key, value in (data | one).items()]
    config = load(overrides=[f"scale={scale}", three, *settings])
    for runs in (config.runs.content, config.runs.dit):
        for run, spec in runs.items():
            runs[run] = replace(spec, evaluations={"main": Measured()})
    return config


def trained_runs(config: Config) -> list[str]:
    known = {run for kind in vars(config.runs).values() for run in kind}
    return [run for run in TRAINED if run in known]


@dataclass(frozen=True)
class Found:
    measured: str
    planned: str = ""
    wrong: str = ""  # what to do
    slower: bool = False
    row: dict[str, Any] = field(default_factory=dict)  # of the JSON: what `d2it plan` reads
    facts: dict[str, Any] = field(default_factory=dict)  # of the machine

    @property
    def verdict(self) -> str:
        if self.wrong:
            return f"wrong: {self.wrong}"
        return "slower than planned" if self.slower else "right"


def is_slow(setting: Setting, seconds: float, planned: float, start: float = 0.0) -> bool:
    return setting.judged and seconds > SLOWER * planned + start


def spell(seconds: float) -> str:
    return f"{seconds:.3g} s"


def not_finite(step: int, kind: str) -> str:
    """What to do about a step whose loss or gradient is no number."""
    return (
        f"step {step} gave a loss or gradient that is not finite: set "
        f"training.{kind}.precision=fp32, and report this"
    )
