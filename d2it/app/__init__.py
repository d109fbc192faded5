"""A page on localhost where one paints where the detail is to go."""

__all__ = ["server", "studio"]
