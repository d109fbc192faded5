"""Warm start of the DVAE from a Stable-Diffusion-style VAE: diffusers' AutoencoderKL, safetensors.

Its encoder's stages and head and its decoder are ours under other names. The coarser grains' stages
and heads have no counterpart there and keep their random start.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from d2it.config.schema import WarmStart
from d2it.errors import UserError
from d2it.files import file_digest
from d2it.models.store import fill

if TYPE_CHECKING:
    from torch import Tensor

    from d2it.models.dvae import Dvae

# Names in an AutoencoderKL's state -> ours; {head} is the head of the finest grain.
NAMES = (
    (r"\.query\.", ".to_q."),  # as files before 2023 say, which diffusers still reads
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.(proj_attn|to_out\.0)\.", ".out."),
    (r"\.group_norm\.", ".norm."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"stages.\2.\3."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"downsamples.\1."),
    (r"up_blocks\.(\d+)\.upsamplers\.0\.", r"upsamples.\1."),
    (r"mid_block\.resnets\.0\.", "middle.0."),
    (r"mid_block\.attentions\.0\.", "middle.1."),
    (r"mid_block\.resnets\.1\.", "middle.2."),
    (r"^post_quant_conv\.", "decoder.quant."),
    (r"^quant_conv\.", "{head}quant."),
    (r"^decoder\.conv_norm_out\.", "decoder.norm_out."),
    (r"^encoder\.conv_norm_out\.", "{head}norm."),
    (r"^encoder\.conv_out\.", "{head}conv."),
    (r"^encoder\.middle\.", "{head}middle."),
)


def renamed(state: "dict[str, Tensor]", head: str) -> "dict[str, Tensor]":
    """An AutoencoderKL's state under the names of a Dvae; `head` is the prefix of its head."""
    import torch

    ours = {}
    for name, value in state.items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        ours[name.replace("{head}", head)] = value.float()
    for query in [name for name in ours if ".to_q." in name]:
        names = [query.replace(".to_q.", f".to_{part}.") for part in "qkv"]
        if all(name in ours for name in names):
            ours[query.replace(".to_q.", ".qkv.")] = torch.cat([ours.pop(name) for name in names])
    return ours


def fresh_parts(network: "Dvae") -> list[str]:
    """Where the names begin of what an AutoencoderKL of the finest factor does not have."""
    finest, coarsest = network.encoder.depths[-1], network.encoder.depths[0]
    stages = [f"encoder.stages.{i}." for i in range(finest + 1, coarsest + 1)]
    downsamples = [f"encoder.downsamples.{i}." for i in range(finest, coarsest)]
    return stages + downsamples + [f"encoder.heads.{i}." for i in range(len(network.factors) - 1)]


def warm_start(network: "Dvae", source: WarmStart) -> str:
    """Give `network` the weights of `source`; returns a sentence for the log."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(source.file)
    if not path.is_file():
        raise UserError(f"model.dvae.warm_start.file: there is no file {path}.")
    if (found := file_digest(path)) != source.sha256:
        raise UserError(
            f"{path} has the sha256 {found}, not model.dvae.warm_start.sha256: set it, if this is "
            "the file that you mean."
        )
    try:
        theirs = load_file(path)
    except SafetensorError:
        raise UserError(
            f"{path} is not a safetensors file, and a pickle is never opened: give the "
            ".safetensors of a diffusers AutoencoderKL."
        ) from None
    fresh = fresh_parts(network)
    ours = renamed(theirs, head=f"encoder.heads.{len(network.factors) - 1}.")
    kept = {n: v for n, v in network.state_dict().items() if n.startswith(tuple(fresh))}
    remedy = "choose model.dvae as that VAE is, or another file"
    fill(network, kept | ours, f"The weights in {path}", remedy)
    begun = ", ".join(name.rstrip(".") for name in fresh) or "nothing"
    return f"warm start: {len(theirs)} tensors of {path}; initialised fresh: {begun}"
