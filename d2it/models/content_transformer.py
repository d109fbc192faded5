"""The Dynamic Content Transformer (section 3.2.3): noise roughly predicted, then corrected.

    Multi-grained Net (Eq 6)  a DiT whose tokens are regions sees the whole image
    Router (Eq 7)             turns tokens into noise: a code in coarse regions, all codes in fine
    RefineNet (Eq 8, 10)      corrects fine regions from patches of one cell, window by window
    merge (Eq 9)              every cell keeps the prediction of its region's grain

For k grains a region has 2^(k-1) cells a side and there are k-1 RefineNets, coarse to fine:
RefineNet i has patches of 2^(k-1-i) cells, one code of grain i, and corrects the regions of grain i
or finer. k = 2 is the paper.

Shapes: z and noise (N, C, H, W); map (N, h, w) with H = 2^(k-1) h; tokens (N, T, width).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2it.errors import UserError
from d2it.grains.maps import mean_within, to_grid
from d2it.machine.device import any_length
from d2it.models.blocks import (
    Block,
    Condition,
    FinalLayer,
    PatchEmbed,
    check_latents,
    positions,
    run_block,
    run_blocks,
    table,
    unpatchify,
)
from d2it.models.windows import PositionBias, Windows, apart, from_windows, to_windows


class MultiGrainedNet(nn.Module):
    """T_M = Patchify(z_noised, P_L, c) and DiT blocks (Eq 6); the map enters token by token."""

    def __init__(
        self, side: int, channels: int, patch: int, depth: int, learned: bool, **block: Any
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels, block["width"], patch)
        self.positions = positions(block["width"], side // patch, learned)
        self.blocks = nn.ModuleList(Block(**block) for _ in range(depth))

    def forward(self, z: Tensor, c: Tensor, grains: Tensor, checkpointing: bool) -> Tensor:
        """z (N, C, H, W), c (N, width), the embedded map (N, T, width) -> (N, T, width)."""
        tokens = self.patch_embed(z) + self.positions + grains
        return run_blocks(self.blocks, tokens, c, checkpointing)


class Router(nn.Module):
    """(eps_1, eps_2) = Router(T_M, M) (Eq 7): a head per grain, or one for all.

    Every head predicts all cells of a region; a code's noise is the mean over its cells. That is
    one linear head per code in another form, serves shared and separate heads alike, and is what
    the published sizes count.
    """

    def __init__(self, width: int, patch: int, channels: int, heads: int) -> None:
        super().__init__()
        self.patch = patch
        self.heads = nn.ModuleList(FinalLayer(width, patch, channels) for _ in range(heads))

    def forward(self, tokens: Tensor, c: Tensor, map: Tensor) -> Tensor:
        """tokens (N, T, width) -> each region's noise from its head, (N, C or 2C, H, W)."""
        grains = map.flatten(1)[:, :, None]  # (N, T, 1)
        noise = self.heads[0](tokens, c)
        for grain, head in enumerate(list(self.heads)[1:], start=1):
            noise = torch.where(grains == grain, head(tokens, c), noise)
        return unpatchify(noise, self.patch)


class RefineNet(nn.Module):
    """eps_2* = RefineNet(eps_2, z_noised, P_S, c) (Eq 8) for the regions of grain `grain` or finer.

    Its tokens see the rough noise beside z_noised, and each other within windows. Coarse cells in a
    window stay visible, as tokens of their copied code, or with `fine_only` are masked as keys, so
    that a fine token sees fine tokens alone; their own noise is not touched. The head starts at
    zero: a correction.
    """

    def __init__(
        self,
        grain: int,
        side: int,
        channels: int,
        outputs: int,
        patch: int,
        depth: int,
        window: int,
        bias: str,
        learned: bool,
        fine_only: bool,
        skip: bool,
        **block: Any,
    ) -> None:
        super().__init__()
        width, tokens = block["width"], side // patch
        if tokens % window:
            raise UserError(
                f"RefineNet's {tokens} x {tokens} tokens do not divide into windows of {window}: "
                "choose another model.window."
            )
        self.grain, self.channels, self.patch = grain, channels, patch
        self.side, self.window = tokens, window
        self.fine_only, self.skip = fine_only, skip
        self.patch_embed = PatchEmbed(2 * channels, width, patch)
        self.positions = positions(width, tokens, learned)
        self.blocks = nn.ModuleList(Block(**block) for _ in range(depth))
        self.biases = nn.ModuleList(
            PositionBias(bias, block["heads"], tokens, window) for _ in range(depth)
        )
        self.head = FinalLayer(width, patch, outputs)

    def forward(
        self,
        noise: Tensor,
        z: Tensor,
        c: Tensor,
        grains: nn.Embedding,
        windows: Windows,
        checkpointing: bool,
    ) -> Tensor:
        """The change of `noise`, (N, C or 2C, H, W); coarser cells are to ignore it."""
        x = self.embed(noise, z, grains, windows.cells)
        refined = x if windows.all else x[windows.live]  # (L, window^2, width)
        per_image = (self.side // self.window) ** 2
        # adaLN's vectors are computed once per image and shared by its windows
        images, places = windows.live // per_image, windows.live % per_image

        def of(one: Tensor) -> Tensor:
            return any_length(one) if windows.skipped else one

        def layer(
            block: nn.Module, bias: nn.Module, x: Tensor, c: Tensor, hidden: Tensor | None
        ) -> Tensor:
            added = bias(of(places), hidden)
            return block(of(x), c, None if added is None else of(added), of(images))

        for block, bias in zip(self.blocks, self.biases, strict=True):
            refined = run_block(
                partial(layer, block, bias), refined, c, windows.hidden, checkpointing=checkpointing
            )
        refined = self.head(refined, c, images)
        if not windows.all:
            blank = refined.new_zeros(len(x), *refined.shape[1:])
            refined = blank.index_put((windows.live,), refined)
        tokens = from_windows(refined, self.side, self.window).flatten(1, 2)
        return unpatchify(tokens, self.patch)

    def embed(self, noise: Tensor, z: Tensor, grains: nn.Embedding, cells: Tensor) -> Tensor:
        """The tokens of every window, (L, window^2, width)."""
        # Of a learned variance nothing is an input: Eq 8's eps_2 is the noise.
        x = self.patch_embed(torch.cat([noise[:, : self.channels], z], dim=1))
        x = x + self.positions + grains(cells).flatten(1, 2)
        return to_windows(x.unflatten(1, (self.side, self.side)), self.window)

    def windows(self, map: Tensor, skip: bool) -> Windows:
        """All windows, or with `skip` those with such regions."""
        cells = to_grid(map, self.side // map.shape[-1])
        coarser = self.coarser(cells)
        hidden = apart(coarser) if self.fine_only else None
        live = torch.arange(len(coarser), device=cells.device)
        if not skip:
            return Windows(cells, hidden, live, True, False)
        live = (~coarser.all(1)).nonzero()[:, 0]
        # never none, so that every parameter has a gradient in every step, if only of zeros
        live = live if len(live) else live.new_zeros(1)
        hidden = None if hidden is None else hidden[live]
        return Windows(cells, hidden, live, len(live) == len(coarser), True)

    def coarser(self, cells: Tensor) -> Tensor:
        """Tokens of no such region. cells (N, side, side), their grains -> (N windows, window^2)"""
        return to_windows(cells[..., None], self.window)[..., 0] < self.grain


class ContentTransformer(nn.Module):
    """eps_theta of latents whose grain map is given. `d2it models` lists the named sizes.

    layers           DiT and RefineNet layers, e.g. (10, 2); (12, 0) has no RefineNet (Table 4)
    positions        "learned" are the finest tokens', or without RefineNet the regions';
                     all other positions are fixed sin-cos
    bias             B_r of Eq 10, "window", "global" or "none": see PositionBias
    heads_out        2: one head at the router and RefineNet's; 3: the router has one per grain
    share_condition  False: RefineNet embeds t, y and the map for itself
    fine_only        RefineNet's fine tokens see fine tokens alone, not their window's coarse cells
    skip_windows     leave out RefineNet's windows without fine regions: equal results, less work
    equal_coarse     False: coarse cells one by one, for latents with independent noise in them
    """

    def __init__(
        self,
        side: int,
        channels: int,
        grains: int,
        width: int,
        heads: int,
        layers: tuple[int, int],
        window: int,
        classes: int,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
        positions: str = "learned",
        bias: str = "window",
        heads_out: int = 2,
        share_condition: bool = True,
        qk_norm: bool = False,
        fine_only: bool = False,
        skip_windows: bool = False,
        equal_coarse: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        dit_layers, refine_layers = layers
        patch = 2 ** (grains - 1)  # P_L: a token is a region
        if side % patch:
            raise UserError(f"A grid of {side} cells does not divide into regions of {patch}.")
        self.side, self.channels, self.grains, self.patch = side, channels, grains, patch
        self.classes, self.equal_coarse = classes, equal_coarse
        self.checkpointing = checkpointing
        outputs = channels * (2 if learn_sigma else 1)
        learned = positions == "learned"
        block = {"width": width, "heads": heads, "mlp_ratio": mlp_ratio, "qk_norm": qk_norm}

        self.condition = Condition(width, classes)
        self.grain = table(grains, width)
        self.multi_grained = MultiGrainedNet(
            side, channels, patch, dit_layers, learned and not refine_layers, **block
        )
        self.router = Router(width, patch, outputs, grains if heads_out == 3 else 1)
        finer = range(1, grains) if refine_layers else ()
        self.refine = nn.ModuleList(
            RefineNet(
                grain=grain,
                side=side,
                channels=channels,
                outputs=outputs,
                patch=2 ** (grains - 1 - grain),
                depth=refine_layers,
                window=window,
                bias=bias,
                learned=learned,
                fine_only=fine_only,
                skip=skip_windows,
                **block,
            )
            for grain in finer
        )
        own = () if share_condition else finer
        self.refine_condition = nn.ModuleList(Condition(width, classes) for _ in own)
        self.refine_grain = nn.ModuleList(table(grains, width) for _ in own)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        y: Tensor | None,
        map: Tensor,
        windows: Sequence[Windows] | None = None,
    ) -> Tensor:
        """z (N, C, H, W), t (N,), y (N,) or None, map (N, h, w) int64 -> (N, C or 2C, H, W).

        `windows` are of this map, where they are known already.
        """
        self.check(z, map)
        nets = cast(list[RefineNet], self.refine)
        if windows is None:
            windows = [refine.windows(map, refine.skip) for refine in nets]
        c = self.condition(t, y)
        tokens = self.multi_grained(z, c, self.grain(map).flatten(1, 2), self.checkpointing)  # Eq 6
        noise = self.router(tokens, c, map).to(z.dtype)  # autocast ends here
        noise = self.one_code(noise, map)  # Eq 7
        cells = to_grid(map, self.patch)[:, None]  # (N, 1, H, W)
        for i, (refine, which) in enumerate(zip(nets, windows, strict=True)):
            own_c = self.refine_condition[i](t, y) if self.refine_condition else c
            own_grain = self.refine_grain[i] if self.refine_grain else self.grain
            change = refine(noise, z, own_c, own_grain, which, self.checkpointing)  # Eq 8
            change = torch.where(cells >= refine.grain, change.to(z.dtype), 0)
            noise = noise + self.one_code(change, map)  # Eq 9
        return noise

    def live_windows(self, map: Tensor, device: torch.device) -> list[Windows]:
        """Of each RefineNet, for many forward passes with one map, which is on the CPU."""
        nets = cast(list[RefineNet], self.refine)
        return [refine.windows(map, skip=True).to(device) for refine in nets]

    def live_shares(self, map: Tensor) -> Tensor:
        """The share of the windows that each RefineNet has to compute, coarse to fine: (N, k-1)
        float64, or (N, 0) without RefineNets.
        """
        shares = []
        for refine in cast(list[RefineNet], self.refine):
            coarser = refine.coarser(to_grid(map, refine.side // map.shape[-1]))
            shares.append((~coarser.all(1)).view(len(map), -1).double().mean(1))
        return torch.stack(shares, 1) if shares else map.new_zeros((len(map), 0)).double()

    def one_code(self, noise: Tensor, map: Tensor) -> Tensor:
        """The cells of a code share one noise, and stay equal to the bit when sampled."""
        return mean_within(noise, map, self.grains) if self.equal_coarse else noise

    def check(self, z: Tensor, map: Tensor) -> None:
        regions = self.side // self.patch
        check_latents(z, self.channels, self.side)
        if map.shape != (len(z), regions, regions):
            raise UserError(
                f"{len(z)} latents of this network need {regions} x {regions} grain maps, "
                f"but the map is {tuple(map.shape)}."
            )
        # On a GPU looking would wait for it; there the maps come from `grains` and are right.
        if map.device.type == "cpu" and not 0 <= int(map.min()) <= int(map.max()) < self.grains:
            raise UserError(
                f"A grain map has grains 0 (coarse) to {self.grains - 1} (fine), but this one has "
                "others: correct it."
            )
