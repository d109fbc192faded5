"""Configurations that tests read, each composed once in a process: change a copy."""

from functools import cache

from d2it.config import Config, load


@cache
def composed(*overrides: str) -> Config:
    return load(overrides=overrides)
