"""Archives to packed pixels at the training resolution."""

__all__ = ["archive", "decode", "emoji", "folder", "names", "packed", "packing", "prepare"]
