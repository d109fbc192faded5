"""What this computer has: devices, GPUs, threads and processes."""

__all__ = ["device", "gpus", "pools", "rows"]
