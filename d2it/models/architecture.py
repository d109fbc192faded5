"""What each run's network looks like: its constructor's arguments, without torch."""

from typing import Any

from d2it.config.run import Run
from d2it.config.schema import Config, Model
from d2it.errors import UserError

PATCH = 2  # P_L of section 3.2.3 for two grains, and DiT's patch: a token is one coarse region

Architecture = dict[str, Any]


def architecture(run: Run) -> Architecture:
    """The constructor arguments of the network of `run`; they are stored beside its weights."""
    of_kind = {"dvae": _dvae, "grain": _grain, "content": _content, "dit": _dit}
    return of_kind[run.kind](run)


def split_layers(depth: int, split: tuple[int, int]) -> tuple[int, int]:
    """DiT and RefineNet layers: `split` counts twelfths of the depth, half a layer rounds up.

    (10, 2) is 10+2 at depth 12, 20+4 at 24, 23+5 at 28 (D²iT-B, -L, -XL) and 5+1 at 6 (the demo).
    """
    dit, refine = ((2 * depth * share + 12) // 24 for share in split)
    return dit, refine


def latent_side(run: Run) -> int:
    """Side of the finest latent grid, e.g. 256 px / 8 = 32."""
    return run.dataset.size // run.factors[-1]


def num_classes(run: Run) -> int:
    """Number of labels that a transformer is told: those of its images, or 0."""
    if not run.spec.conditional:
        return 0
    if not run.dataset.classes:
        raise UserError(
            f"A conditional run learns from {run.data!r}, which has no classes: "
            f"set data.{run.data}.classes."
        )
    return run.dataset.classes


def discriminator_shape(config: Config) -> dict[str, int]:
    """The discriminator's constructor arguments."""
    model = config.model.dvae
    return {
        "channels": model.discriminator_channels,
        "layers": model.discriminator_layers,
        "norm_groups": model.norm_groups,
    }


def dvae_arguments(model: Model, factors: list[int], size: int) -> Architecture:
    """Of a Dvae for images of this size."""
    return {
        "factors": factors,
        "size": size,
        "latent_channels": model.latent_channels,
        "channels": model.dvae.channels,
        "multipliers": model.dvae.stages(factors[0]),
        "res_blocks": model.dvae.res_blocks,
        "attention": list(model.dvae.attention),
        "norm_groups": model.dvae.norm_groups,
    }


def _dvae(run: Run) -> Architecture:
    return dvae_arguments(run.config.model, run.factors, run.dataset.size)


def _transformer(run: Run) -> Architecture:
    """What the three transformers share."""
    size = run.config.model.sizes[run.spec.size]
    return {
        "width": size.width,
        "heads": size.heads,
        "classes": num_classes(run),
        "mlp_ratio": run.config.model.mlp_ratio,
    }


def _grain(run: Run) -> Architecture:
    return _transformer(run) | {
        "side": run.dataset.size // run.factors[0],
        "grains": len(run.factors),
        "depth": run.config.model.sizes[run.spec.size].depth,
        **({"any_ratio": True} if run.ratio == "random" else {}),  # younger than some networks
    }


def _dit(run: Run) -> Architecture:
    model, diffusion = run.config.model, run.config.diffusion
    return _transformer(run) | {
        "side": latent_side(run),
        "channels": model.latent_channels,
        "patch": PATCH,
        "depth": model.sizes[run.spec.size].depth,
        "learn_sigma": diffusion.learn_sigma,
    }


def _content(run: Run) -> Architecture:
    model, diffusion, spec = run.config.model, run.config.diffusion, run.spec
    return _transformer(run) | {
        "side": latent_side(run),
        "channels": model.latent_channels,
        "grains": len(run.factors),
        "layers": list(split_layers(model.sizes[spec.size].depth, spec.split)),
        "window": model.window,
        "learn_sigma": diffusion.learn_sigma,
        "positions": spec.positions,
        "bias": spec.bias,
        "heads_out": spec.heads,
        "share_condition": spec.share_condition,
        "qk_norm": spec.qk_norm,
        "skip_windows": spec.skip_windows,
        "equal_coarse": diffusion.shared_noise,
        **({"fine_only": True} if spec.fine_only else {}),  # younger than some networks
    }
