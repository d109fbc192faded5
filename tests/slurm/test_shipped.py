"""The launcher of this repository, made for nodes of eight GPUs, at a scale of two shards."""

import json
from collections.abc import Callable
from pathlib import Path

from d2it.jobs import slurm
from tests.slurm.conftest import Training


def test_a_job_takes_as_many_gpus_as_it_has_shards(
    world: Path, training: Callable[..., Training]
) -> None:
    shipped = training("shipped")
    shipped.environment["D2IT_LAUNCHER"] = "slurm device=cpu poll=3"
    shipped.finish(shipped.start())
    [told] = slurm.accounting([shipped.job()], every=0).values()
    assert told.gpus == 2
    [start] = json.loads((shipped.run / "provenance.json").read_text())["starts"]
    assert start["processes"] == 2 and shipped.equal(world)
