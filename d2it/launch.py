"""Where a run is trained: in this process, in several on this machine, or on a Slurm cluster.

Which one is a matter of machines (params/launcher/), outside every recipe: the weights are equal.
No torch is imported here, so a process that only waits for a job stays small.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from d2it.config import paths
from d2it.config.load import build, nearest, params_folder
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.training.publish import finished, is_published, publish
from d2it.training.run_folder import Plan, await_free, make_plan


@dataclass(frozen=True)
class Resources:
    """What one kind of run gets."""

    processes: int = 1  # per node; on GPUs, one each
    nodes: int = 1
    gpus: int = 0  # per node
    cpus: int = 1  # per process
    minutes: int = 1440  # time limit of a job
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    extra: dict[str, str | int | float | bool] = field(default_factory=dict)  # sbatch options


@dataclass(frozen=True)
class Launcher:
    """A file of params/launcher/."""

    cluster: Literal["local", "slurm"]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1  # of each process on the CPU
    poll: int = 60  # seconds between two questions to Slurm's accounting, for all runs together
    resources: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # what differs, by kind of run

    def of(self, kind: str) -> Resources:
        return build(Resources, self.resources | self.stages.get(kind, {}), f"stages.{kind}")


def load_launcher(name: str | None = None) -> Launcher:
    """The launcher called `name` (default: D2IT_LAUNCHER, else local), or in the file `name`."""
    name = name or os.environ.get("D2IT_LAUNCHER") or "local"
    folder = params_folder() / "launcher"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    try:
        return build(Launcher, yaml.safe_load(path.read_text()), "")
    except FileNotFoundError:
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        raise UserError(
            f"There is no launcher {name!r}{nearest(name, known)}: choose {' or '.join(known)}, "
            "or a YAML file."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}).") from None
    except UserError as error:
        raise UserError(f"In {path}: {error}") from None


def launch(
    config: Config,
    run: str,
    launcher: Launcher,
    wait: bool = False,
    processes: int | None = None,
) -> None:
    """Train `run` to its end, or go on with it, and publish its model.

    Raises Stopped when a signal ended it early; its state is saved then. With `wait`, a process
    that is training this run already is waited for; without, it is a UserError.
    """
    plan = make_plan(config, run)
    published = paths.model(config, run)
    done = finished(plan, _warn)
    if done is None and is_published(plan, published):
        print(f"{run}: trained to {plan.images} images before, stands in {published}")
        return
    if done is None:
        _train(config, plan, launcher, wait, processes)
        done = finished(plan, _warn)
        if done is None:
            raise UserError(
                f"{plan.folder} is not finished, though its training ended: run the same command "
                "again."
            )
        print(f"{run}: trained to {plan.images} images, published in {published}")
    else:
        print(f"{run}: trained to {plan.images} images before, published again in {published}")
    publish(plan, done, published)


def _train(
    config: Config, plan: Plan, launcher: Launcher, wait: bool, processes: int | None
) -> None:
    from d2it import jobs, slurm_jobs

    resources = launcher.of(plan.kind)
    job = jobs.Job(config, plan.run, launcher.device, launcher.threads)
    if launcher.cluster == "slurm":
        slurm_jobs.run_on_slurm(plan, job, resources, wait, launcher.poll)
        return
    await_free(plan.folder, wait)
    gpus = 0 if launcher.device == "cpu" else visible_gpus()
    count = processes or (min(resources.processes, gpus) if gpus else resources.processes)
    if count > 1:
        jobs.run_here(plan, job, count, min(count, gpus))
    else:
        job.train(wait)


def visible_gpus() -> int:
    """Number of NVIDIA GPUs of this machine, found without torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip()])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _warn(sentence: str) -> None:
    print(f"d2it: warning: {sentence}")
