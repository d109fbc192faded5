"""DiT (Peebles and Xie 2023): the baseline of every comparison, and the Grain Transformer."""

import re

from torch import Tensor, nn

from d2it.errors import UserError
from d2it.models.blocks import (
    Block,
    Condition,
    FinalLayer,
    PatchEmbed,
    check_latents,
    positions,
    run_blocks,
    unpatchify,
)
from d2it.models.store import fill


class DiT(nn.Module):
    """Noise (and, with `learn_sigma`, its variance) of square latents with `channels` channels.

    Trainable parameters at patch 2, 1000 classes: S 32.9, B 130.3, L 457.8, XL 674.8 M.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
        qk_norm: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if side % patch:
            raise UserError(f"A grid of {side} cells does not divide into patches of {patch}.")
        self.side, self.channels, self.patch, self.classes = side, channels, patch, classes
        self.checkpointing = checkpointing
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.positions = positions(width, side // patch, learned=False)
        self.condition = Condition(width, classes)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.head = FinalLayer(width, patch, channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), t (N,), y (N,) or None -> (N, C or 2C, H, W)."""
        return self.given(x, self.condition(t, y))

    def given(self, x: Tensor, c: Tensor) -> Tensor:
        """`forward` with the condition c (N, width)."""
        check_latents(x, self.channels, self.side)
        tokens = self.patch_embed(x) + self.positions
        tokens = run_blocks(self.blocks, tokens, c, self.checkpointing)
        return unpatchify(self.head(tokens, c), self.patch)


# Names in the released checkpoints -> ours. Their positions have a leading batch dimension of 1.
RELEASED_NAMES = (
    (r"^x_embedder\.", "patch_embed."),
    (r"^pos_embed$", "positions"),
    (r"^t_embedder\.", "condition.time."),
    (r"^y_embedder\.embedding_table\.", "condition.label."),
    (r"^final_layer\.", "head."),
    (r"\.adaLN_modulation\.", ".modulation."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)


def from_released(network: DiT, state: dict[str, Tensor]) -> None:
    """Give `network` the weights of a released checkpoint (facebookresearch/DiT)."""
    renamed = {}
    for name, value in state.items():
        for pattern, ours in RELEASED_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = value[0] if name == "positions" else value
    fill(network, renamed, "The released weights", "choose the network's size and classes")
