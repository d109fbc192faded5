"""The version of d2it, which every run records."""

__version__ = "0.1.0"
