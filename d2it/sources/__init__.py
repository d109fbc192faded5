"""Downloads and archives named in data/sources.csv, checked by their sha256."""

__all__ = ["fetch", "table"]
