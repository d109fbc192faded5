"""Codes of a data set, cached by a trained DVAE (section 3.2.1)."""

__all__ = ["cache", "encode"]
