"""D²iT: Dynamic Diffusion Transformer (arXiv 2504.09454), reproduced from photographs to tables."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from d2it.sampling.pipeline import Pipeline

__version__ = "0.1.0"


def load(folder: "Path | str") -> "Pipeline":
    """The trained run in a folder that `d2it export` wrote: `load(folder).sample(n=4, seed=0)`."""
    from d2it.sampling.export import load

    return load(folder)
