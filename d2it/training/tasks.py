"""Which task trains which kind of run."""

import importlib

import torch

from d2it.clock import seed_of
from d2it.config.run import Run
from d2it.training.task import Task

TASKS = {
    "dvae": "d2it.training.dvae:DvaeTask",
    "grain": "d2it.training.transformers:GrainTask",
    "content": "d2it.training.transformers:ContentTask",
    "dit": "d2it.training.transformers:DitTask",
}


def make_task(run: Run) -> Task:
    """The task of `run`, its networks initialised from the configuration's seed and, where the run
    is one of several, its training seed.
    """
    repeat = [] if run.repeat is None else [run.repeat]
    identity = [run.config.seed, "initialise", run.kind, *repeat]
    module, name = TASKS[run.kind].split(":")
    build = getattr(importlib.import_module(module), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*identity))
        task: Task = build(run)
    return task
