"""One loop for DVAE, grain, content and DiT runs."""

__all__ = ["loop", "tasks"]
