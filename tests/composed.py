"""Configurations that tests read, each composed once in a process: change a copy."""

from functools import cache

from d2it.config import Config, load

# The demo with every run that a table or figure has a place for.
WHOLE = (
    "experiment@runs=[dvae,dvae_classes,grid,dvae_three,grain_three,d2it_b_three,"
    "grain_elastic,d2it_b_elastic,grain_three_elastic,d2it_b_three_elastic]",
    "first_stage.three_elastic=dvae_three",
    "runs.dvae.dvae.ratios=[0,0.3,0.5,0.7,0.9,1,random]",
    "runs.dvae.dvae_three.ratios=[[0.25,0.5],random]",
    "convergence_guided.guided_200={guidance: 2.0}",
    *(f"runs.content.d2it_b_elastic.evaluations.r{n}={{ratio: 0.{n}}}" for n in ("30", "70")),
)


@cache
def composed(*overrides: str) -> Config:
    return load(overrides=overrides)
