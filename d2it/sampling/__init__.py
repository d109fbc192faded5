"""Trained networks to images: pipelines, exported folders, files of samples."""

__all__ = ["export", "header", "pipeline", "trained_run", "write"]
