"""D²iT: Dynamic Diffusion Transformer (arXiv 2504.09454), reproduced from photographs to tables."""

from typing import TYPE_CHECKING

from d2it.version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from d2it.sampling.exported import Exported


def load(name: "Path | str") -> "Exported":
    """A trained run: `load(name).sample(n=4, seed=0)`. It is a folder that `d2it export` wrote, the
    name of one that comes with d2it, or the owner/name of one on the Hugging Face Hub.
    """
    from d2it.sampling.exported import load

    return load(name)
