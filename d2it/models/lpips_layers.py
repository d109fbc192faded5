"""The networks behind LPIPS, layer by layer. No torch: their cost is asked for before they run."""

from typing import NamedTuple


class Backbone(NamedTuple):
    """A torchvision feature extractor up to the last layer that LPIPS reads."""

    convolutions: list[tuple[int, int, int, int, int]]  # inputs, outputs, kernel, stride, padding
    pooled: dict[int, tuple[int, int]]  # before this convolution: max pooling (kernel, stride)
    read: list[int]  # convolutions whose ReLU outputs are compared


ALEX = Backbone(
    [
        (3, 64, 11, 4, 2),
        (64, 192, 5, 1, 2),
        (192, 384, 3, 1, 1),
        (384, 256, 3, 1, 1),
        (256, 256, 3, 1, 1),
    ],
    {1: (3, 2), 2: (3, 2)},
    [0, 1, 2, 3, 4],
)
VGG_WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG = Backbone(
    [(a, b, 3, 1, 1) for a, b in zip(VGG_WIDTHS, VGG_WIDTHS[1:], strict=False)],
    {2: (2, 2), 4: (2, 2), 7: (2, 2), 10: (2, 2)},
    [1, 3, 6, 9, 12],
)
BACKBONES = {"alex": ALEX, "vgg": VGG}
