"""Trained networks to images: pipelines, exported folders, files of samples."""

__all__ = ["export", "exported", "pipeline", "trained_run", "write"]
