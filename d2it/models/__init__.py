"""The networks of the paper, its baseline, and those that measure."""

__all__ = [
    "architecture",
    "content_transformer",
    "discriminator",
    "dit",
    "dvae",
    "from_autoencoder",
    "grain_transformer",
    "inception",
    "lpips",
    "lpips_layers",
    "shapes",
    "store",
]
