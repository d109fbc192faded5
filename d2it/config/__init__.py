"""The composed, checked configuration, the recipes behind run names, and where files stand."""

from d2it.config.load import load
from d2it.config.schema import Config

__all__ = ["Config", "load"]
