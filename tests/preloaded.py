"""What the server of tests/forked.py has done before it forks: imports, and what is found once."""

import importlib

from d2it.config.load import compose

for name in (
    *("d2it.training.loop", "d2it.training.dvae", "d2it.training.transformers"),
    *("torch._dynamo", "torch.distributed.tensor", "d2it.jobs.local", "d2it.snakefile"),
    *("snakemake.cli", "snakemake.report"),
):
    importlib.import_module(name)

compose()  # Hydra finds its plugins and learns its grammar
importlib.import_module("snakemake.cli").get_argument_parser()  # so does Snakemake
