"""The folder of a run: what it is to become, who trains it, its states, its published weights."""

__all__ = [
    "evaluations",
    "keep",
    "lease",
    "plan",
    "provenance",
    "publish",
    "record",
    "signals",
    "snapshots",
    "state",
    "verify",
]
