"""What each run's network looks like: its constructor's arguments, without torch."""

from typing import Any

from d2it.config.recipe import factors_of, kind_of
from d2it.config.schema import Config, ContentRun, DitRun, DvaeRun, GrainRun
from d2it.errors import UserError

PATCH = 2  # P_L of section 3.2.3 for two grains, and DiT's patch: a token is one coarse region

Architecture = dict[str, Any]


def architecture(config: Config, run: str) -> Architecture:
    """The constructor arguments of the network of `run`; they are stored beside its weights."""
    kind = kind_of(config, run)
    settings = getattr(config.runs, kind)[run]
    if kind == "dvae":
        return _dvae(config, settings, factors_of(config, run))
    if kind == "content":
        return _content(config, settings)
    return _dit(config, settings) if kind == "dit" else _grain(config, settings)


def split_layers(depth: int, split: tuple[int, int]) -> tuple[int, int]:
    """DiT and RefineNet layers: `split` counts twelfths of the depth, half a layer rounds up.

    (10, 2) is 10+2 at depth 12, 20+4 at 24, 23+5 at 28 (D²iT-B, -L, -XL) and 5+1 at 6 (the demo).
    """
    dit, refine = ((2 * depth * share + 12) // 24 for share in split)
    return dit, refine


def latent_side(config: Config, dvae: str) -> int:
    """Side of the finest latent grid, e.g. 256 px / 8 = 32."""
    return config.data[config.runs.dvae[dvae].data].size // factors_of(config, dvae)[-1]


def num_classes(config: Config, dvae: str) -> int:
    """Number of labels of the images behind a DVAE's latents."""
    data = config.runs.dvae[dvae].data
    if not config.data[data].classes:
        raise UserError(
            f"A conditional run learns from {data!r}, which has no classes: "
            f"set data.{data}.classes."
        )
    return config.data[data].classes


def judge_shape(config: Config) -> dict[str, int]:
    """The discriminator's constructor arguments."""
    model = config.model.dvae
    return {
        "channels": model.discriminator_channels,
        "layers": model.discriminator_layers,
        "norm_groups": model.norm_groups,
    }


def _dvae(config: Config, run: DvaeRun, factors: list[int]) -> Architecture:
    model = config.model.dvae
    return {
        "factors": factors,
        "size": config.data[run.data].size,
        "latent_channels": config.model.latent_channels,
        "channels": model.channels,
        "multipliers": model.stages(factors[0]),
        "res_blocks": model.res_blocks,
        "attention": list(model.attention),
        "norm_groups": model.norm_groups,
    }


def _transformer(config: Config, run: GrainRun | ContentRun | DitRun) -> Architecture:
    """What the three transformers share."""
    size = config.model.sizes[run.size]
    return {
        "width": size.width,
        "heads": size.heads,
        "classes": num_classes(config, run.latents) if run.conditional else 0,
        "mlp_ratio": config.model.mlp_ratio,
    }


def _grain(config: Config, run: GrainRun) -> Architecture:
    factors = factors_of(config, run.latents)
    return _transformer(config, run) | {
        "side": config.data[config.runs.dvae[run.latents].data].size // factors[0],
        "grains": len(factors),
        "depth": config.model.sizes[run.size].depth,
    }


def _dit(config: Config, run: DitRun) -> Architecture:
    return _transformer(config, run) | {
        "side": latent_side(config, run.latents),
        "channels": config.model.latent_channels,
        "patch": PATCH,
        "depth": config.model.sizes[run.size].depth,
        "learn_sigma": config.diffusion.learn_sigma,
    }


def _content(config: Config, run: ContentRun) -> Architecture:
    return _transformer(config, run) | {
        "side": latent_side(config, run.latents),
        "channels": config.model.latent_channels,
        "grains": len(factors_of(config, run.latents)),
        "layers": list(split_layers(config.model.sizes[run.size].depth, run.split)),
        "window": config.model.window,
        "learn_sigma": config.diffusion.learn_sigma,
        "positions": run.positions,
        "bias": run.bias,
        "heads_out": run.heads,
        "share_condition": run.share_condition,
        "qk_norm": run.qk_norm,
        "skip_windows": run.skip_windows,
        "equal_coarse": config.diffusion.shared_noise,
    }
