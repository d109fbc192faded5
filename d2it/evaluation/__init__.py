"""Samples, reconstructions and maps measured against photographs (section 4)."""

__all__ = ["any_images", "evaluate", "reference"]
