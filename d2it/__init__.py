"""D²iT: Dynamic Diffusion Transformer (arXiv 2504.09454), reproduced from photographs to tables."""

from typing import TYPE_CHECKING

from d2it.version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from d2it.sampling.pipeline import Pipeline


def load(folder: "Path | str") -> "Pipeline":
    """The trained run in a folder that `d2it export` wrote: `load(folder).sample(n=4, seed=0)`."""
    from d2it.sampling.export import load

    return load(folder)
