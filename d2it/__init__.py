"""D²iT: Dynamic Diffusion Transformer (arXiv 2504.09454), reproduced from photographs to tables."""

__version__ = "0.1.0"
