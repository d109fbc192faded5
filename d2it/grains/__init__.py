"""Dynamic granularity (section 3.1): entropy, its thresholds, and the maps they give."""

__all__ = ["calibrate", "entropy", "maps", "mixture", "overlay", "rows", "thresholds"]
