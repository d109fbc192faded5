"""Archives to packed pixels at the training resolution."""

__all__ = ["archive", "decode", "folder", "names", "packed", "packing", "prepare"]
