"""The types of settings: numbers of a range, ratios, kernels, precisions."""

from typing import Annotated, Literal


class Range(str):
    """What a number must be, e.g. "above 0 and at most 1"."""


Amount = Annotated[int, Range("at least 0")]
Count = Annotated[int, Range("at least 1")]
Several = Annotated[int, Range("at least 2")]
Weight = Annotated[float, Range("at least 0")]
Positive = Annotated[float, Range("above 0")]
Decay = Annotated[float, Range("at least 0 and below 1")]
Variance = Annotated[float, Range("above 0 and below 1")]
Share = Annotated[float, Range("above 0 and at most 1")]
Grey = Annotated[int, Range("at least -1 and at most 1")]

Ratio = float | list[float]
"""Share of fine regions r; for k > 2 grains, the shares of grains 1..k-1 (0 is the coarsest)."""

# "random": a ratio per image, 20 % each of 0, .5 and 1, else uniform. For k > 2 grains, k-1 such
# numbers in falling order are the shares of the regions of grain 1 or finer, 2 or finer, …
Learned = Ratio | Literal["random"]
"""What a run learns from: images of one ratio, or of a random one each, so that it serves all."""

Precision = Literal["fp32", "tf32", "bf16"]

Kernel = tuple[float, int, tuple[int, int]]
"""What Eq 2 measures entropy with: sigma, how many bins, and what they span."""
