"""What autograd keeps, and the most that a step holds, counted while the project's own code runs.

On fake tensors: nothing is computed and nothing allocated, so published sizes take moments.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2it.config.schema import Config
from d2it.models.content_transformer import ContentTransformer
from d2it.models.discriminator import Discriminator
from d2it.models.dit import DiT
from d2it.models.dvae import Dvae
from d2it.models.grain_transformer import GrainTransformer
from d2it.models.lpips import Lpips
from d2it.training.dvae import DvaeTask

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dvae": Dvae,
    "grain": GrainTransformer,
    "content": ContentTransformer,
    "dit": DiT,
}


def cuda_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, plain: Any = None
) -> Tensor:
    """The kernel that a GPU takes; a machine without one takes another, that keeps the scores."""
    if q.dim() < 4:  # no kernel takes it
        return plain(q, k, v)
    if attn_mask is None and q.dtype is torch.bfloat16:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True)[0]


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    plain = functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            functional,
            "scaled_dot_product_attention",
            lambda q, k, v, attn_mask=None: cuda_attention(q, k, v, attn_mask, plain),
        )
        yield


def build(kind: str, shape: dict[str, Any], n: int, checkpointing: bool) -> tuple[nn.Module, tuple]:
    """A network, and what it is called with."""
    network = NETWORKS[kind](**shape, checkpointing=checkpointing)
    if kind == "dvae":
        sides = [shape["size"] // factor for factor in shape["factors"]]
        x = torch.zeros(n, 3, shape["size"], shape["size"])
        map = torch.ones(n, sides[0], sides[0], dtype=torch.long)
        return network, (x, map, [torch.zeros(n, shape["latent_channels"], s, s) for s in sides])
    side, t = shape["side"], torch.zeros(n, dtype=torch.long)
    x = torch.zeros(n, shape["grains" if kind == "grain" else "channels"], side, side)
    inputs = (x, t, t if shape["classes"] else None)
    if kind == "content":
        regions = side >> (shape["grains"] - 1)
        inputs += (torch.full((n, regions, regions), shape["grains"] - 1),)
    return network, inputs


def kept_by_forward(
    kind: str, shape: dict[str, Any], n: int, bf16: bool, checkpointing: bool, fake: bool = True
) -> int:
    """Bytes of all that a forward pass on a GPU keeps for the backward pass, but parameters."""
    with FakeTensorMode() if fake else nullcontext(), kernels_of_a_gpu() if fake else nullcontext():
        with torch.device("cuda" if fake else "cpu"):
            network, inputs = build(kind, shape, n, checkpointing)
        parameters = {p.untyped_storage()._cdata for p in network.parameters()}
        held: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                held[storage._cdata] = storage
            return tensor

        # torch.autocast looks for a driver; what it switches does not
        torch.set_autocast_enabled("cuda", bf16)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                output = network(*inputs)
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()
        assert output is not None
        return sum(storage.nbytes() for storage in held.values())


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that still live: now, and at most.

    A parameter counts from its first view on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.note(tensor.untyped_storage())
        return made

    def note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, name: int, size: int) -> None:
        self.known.remove(name)
        self.now -= size


@contextmanager
def watched() -> Iterator[Live]:
    """A meta device, on which backward passes run too, in fp32."""
    with kernels_of_a_gpu(), torch.device("meta"), Live() as live:
        yield live


def peak_of_network(kind: str, shape: dict[str, Any], n: int, checkpointing: bool) -> int:
    """The most bytes of two micro-batches, the second with the first one's gradients."""
    with watched() as live:
        network, inputs = build(kind, shape, n, checkpointing)
        for _ in range(2):
            network(*inputs).square().mean().backward()
        return live.peak


def peak_of_dvae(config: Config, shape: dict[str, Any], n: int, checkpointing: bool) -> int:
    """The same of a DVAE with the task's own losses, while the discriminator plays."""
    model = config.model.dvae
    with watched() as live:
        network, (x, map, noises) = build("dvae", shape, n, checkpointing)
        task = object.__new__(DvaeTask)
        task.dvae, task.loss_settings = network, config.dvae_loss
        task.lpips = Lpips(config.dvae_loss.perceptual)
        critic = Discriminator(
            model.discriminator_channels, model.discriminator_layers, model.norm_groups
        )
        critic.requires_grad_(False)
        for _ in range(2):
            copy, moments = network(x, map, noises)
            loss, _ = task._generator_loss(critic, x, copy, moments, map)
            del copy, moments
            loss.backward()
            del loss
        return live.peak


def peak_of_drawing(content: dict[str, Any], dvae: dict[str, Any], n: int) -> int:
    """The most bytes, beside networks, of a guided step of `n` latents and of decoding them."""
    with watched() as live, torch.no_grad():
        network, inputs = build("content", content, 2 * n, False)
        decoder, _ = build("dvae", dvae, 1, False)
        before = live.now
        network(*inputs)
        decoder.decode(torch.zeros(n, dvae["latent_channels"], content["side"], content["side"]))
        return live.peak - before
