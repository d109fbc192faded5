"""What a study costs before it is run: MACs, memory, disk, GPU-hours."""

__all__ = ["disk", "macs", "memory", "named_models", "plan", "rate"]
