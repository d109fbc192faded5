"""Windows of RefineNet's tokens: which are computed, and what their attention adds (Eq 10)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from d2it.machine.device import send


class PositionBias(nn.Module):
    """B_r of Eq 10 for one layer, learned from zero: added to the attention scores within a window.

    "window": an N x N matrix per head, N the tokens of a window. "global": the letter of Eq 10, one
    matrix with N all tokens of the latent codes, of which the windows use the blocks on the
    diagonal. "none": nothing.
    """

    index: Tensor  # (windows, N): the raster indices of each window's tokens

    def __init__(self, kind: str, heads: int, side: int, window: int) -> None:
        super().__init__()
        self.kind = kind
        size = (heads, window**2, window**2) if kind == "window" else (side**2, side**2)
        self.matrix = None if kind == "none" else nn.Parameter(torch.zeros(size))
        index = torch.arange(side**2).view(1, side, side, 1)
        self.register_buffer("index", to_windows(index, window)[..., 0], persistent=False)

    def forward(self, places: Tensor, hidden: Tensor | None = None) -> Tensor | None:
        """What is added: broadcastable to (L, heads, N, N), or None.

        places (L,), where in the image each window lies; hidden (L, 1, N, N), the pairs of tokens
        of which the first does not see the second.
        """
        bias = self.learned(places)
        if hidden is None:
            return bias
        return torch.where(hidden, -torch.inf, 0.0 if bias is None else bias)

    def learned(self, places: Tensor) -> Tensor | None:
        """(1, heads, N, N), (L, 1, N, N) or None."""
        if self.matrix is None or self.kind == "window":
            return self.matrix if self.matrix is None else self.matrix[None]
        index = self.index[places]  # (L, N)
        return self.matrix[index[:, :, None], index[:, None, :]][:, None]


def to_windows(grid: Tensor, window: int) -> Tensor:
    """(N, side, side, C) -> (N windows, window^2, C), the windows of an image row by row."""
    n, side, _, channels = grid.shape
    across = side // window
    grid = grid.reshape(n, across, window, across, window, channels).transpose(2, 3)
    return grid.reshape(n * across**2, window**2, channels)


def from_windows(windows: Tensor, side: int, window: int) -> Tensor:
    """The inverse of `to_windows`."""
    across, channels = side // window, windows.shape[-1]
    grid = windows.view(-1, across, across, window, window, channels).transpose(2, 3)
    return grid.reshape(-1, side, side, channels)


@dataclass(frozen=True)
class Windows:
    """What a RefineNet is told by the grain maps alone, which stay as they are in sampling."""

    cells: Tensor  # (N, side, side), each token's grain
    hidden: Tensor | None  # (L, 1, window^2, window^2), pairs of tokens: see PositionBias
    live: Tensor  # (L,), which of the N windows^2 are computed
    all: bool
    skipped: bool  # L changes with the maps

    def to(self, device: torch.device) -> "Windows":
        cells, live = send(self.cells, device), send(self.live, device)
        hidden = None if self.hidden is None else send(self.hidden, device)
        return replace(self, cells=cells, live=live, hidden=hidden)


def apart(coarser: Tensor) -> Tensor:
    """Pairs of tokens that do not see each other where the second is coarser: (L, N) ->
    (L, 1, N, N). Each sees itself: no row of scores is all -inf, which softmax makes NaN.
    """
    itself = torch.eye(coarser.shape[1], dtype=torch.bool, device=coarser.device)
    return (coarser[:, None, :] & ~itself)[:, None]
