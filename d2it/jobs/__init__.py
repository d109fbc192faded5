"""Where a stage is computed: in this process, in several, or on a Slurm cluster."""

__all__ = ["last_word", "launch", "launcher", "outlook", "spread", "status"]
