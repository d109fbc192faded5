"""A package, so that `tests` is ours: torch-fidelity installs one of the same name."""
