"""Which task trains which kind of run."""

import importlib

import torch

from d2it.clock import seed_of
from d2it.config.recipe import kind_of, training_seed
from d2it.config.schema import Config
from d2it.training.task import Task

TASKS = {
    "dvae": "d2it.training.dvae:DvaeTask",
    "grain": "d2it.training.transformers:GrainTask",
    "content": "d2it.training.transformers:ContentTask",
    "dit": "d2it.training.transformers:DitTask",
}


def make_task(config: Config, run: str) -> Task:
    """The task of `run`, its networks initialised from the configuration's seed and, where the run
    is one of several, its training seed.
    """
    kind, repeat = kind_of(config, run), training_seed(config, run)
    identity = [config.seed, "initialise", kind, *([] if repeat is None else [repeat])]
    module, name = TASKS[kind].split(":")
    build = getattr(importlib.import_module(module), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*identity))
        task: Task = build(config, run)
    return task
