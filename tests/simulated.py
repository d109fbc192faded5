"""A simulated accelerator: tensors that say they are on `sim:0`, and compute on the CPU.

    import tests.simulated as simulated            # registers the device, once a process
    x = torch.ones(3, device=simulated.DEVICE)
    with simulated.waits() as found: ...           # [Wait("item", "grains.py:167"), ...]
    with simulated.chosen(): ...                   # choose_device and accelerate take it

It computes what the CPU computes, to the bit, and is as strict as CUDA: a CPU tensor beside its own
is an error (`Mixed`), and every moment at which the host would wait for a GPU is noted with the
line of d2it that asks for it. A copy waits unless it is non-blocking and the CPU's side is pinned.

It is a backend in Python (torch.utils.backend_registration): it has no GPU's speed or rounding.
"""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from tests import chosen_device

DEVICE = torch.device  # set below, once the device has its name
LIBRARY = str(Path(__file__).parents[1] / "d2it") + os.sep


class Mixed(RuntimeError):
    """Tensors of the CPU and of the accelerator in one operation."""


class Wait(NamedTuple):
    what: str
    where: str  # the innermost line of d2it; autograd's own thread has none


_recorders: list[list[Wait]] = []


@contextmanager
def waits() -> Iterator[list[Wait]]:
    """The moments within the block at which the host waits for the device."""
    found: list[Wait] = []
    _recorders.append(found)
    try:
        yield found
    finally:
        _recorders.remove(found)


def _note(what: str) -> None:
    if not _recorders:
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(LIBRARY):
        frame = frame.f_back
    where = "outside d2it"
    if frame is not None:
        where = f"{frame.f_code.co_filename.removeprefix(LIBRARY)}:{frame.f_lineno}"
    for found in _recorders:
        found.append(Wait(what, where))


def chosen(device: str = "sim:0") -> AbstractContextManager[None]:
    """Within the block d2it and accelerate take the simulated device, as they would a GPU, or this
    one.
    """
    return chosen_device.chosen(device)


class SimulatedTensor(torch.Tensor):
    """Says that it is on the device; `raw` is the CPU's tensor that it stands for."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "SimulatedTensor":
        with torch.inference_mode(False):  # a view must be no inference tensor if its base is none
            return torch.Tensor._make_wrapper_subclass(
                cls,
                raw.size(),
                strides=raw.stride(),
                storage_offset=raw.storage_offset(),
                dtype=raw.dtype,
                device=DEVICE,
            )

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw

    def __repr__(self) -> str:  # type: ignore[override]
        return f"simulated {self.raw!r}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(operation):  # met whole in inference mode
            return operation.decompose(*args, **kwargs)
        return _run(operation, args, kwargs)


# Torch would put these together from others, with other rounding than the CPU's own kernels.
NATIVE = ("scaled_dot_product_attention", "silu_backward")


@functools.cache
def _is_composite(operation: Any) -> bool:
    """Whether it is made of other operations, to be looked at one by one."""
    name, key = operation.name(), "CompositeImplicitAutograd"
    native = name.removeprefix("aten::") in NATIVE
    return not native and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


# what CUDA cannot answer before the device has: a value, or how large the result is
WAITING = {
    "_local_scalar_dense": "item",
    "bincount": "bincount",
    "equal": "equal",
    "is_nonzero": "item",
    "masked_select": "masked_select",
    "nonzero": "nonzero",
    "repeat_interleave": "repeat_interleave",
    "_unique2": "unique",
    "unique_consecutive": "unique",
    "unique_dim": "unique",
}
COPIES = ("_to_copy", "copy_", "_copy_from")
MASKED = ("index", "index_put", "index_put_", "_index_put_impl_")  # by a mask: it is counted first


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The CPU's own operation on what the tensors stand for."""
    name = operation._schema.name.removeprefix("aten::")
    if name in COPIES:
        return _copy(name, operation, args, kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    _refuse_mixed(name, operation, tensors)
    if name in WAITING:
        _note(WAITING[name])
    if name in MASKED and any(leaf is not None and leaf.dtype == torch.bool for leaf in args[1]):
        _note("indexing by a mask")
    raw_args, raw_kwargs = _raw(args), _raw(kwargs)
    if "device" in kwargs:
        raw_kwargs["device"] = "cpu"
    out = operation(*raw_args, **raw_kwargs)
    # what is changed in place, or given as `out`, comes back as it came
    same = {id(t.raw): t for t in tensors if isinstance(t, SimulatedTensor)}
    for raw, tensor in ((t.raw, t) for t in same.values()):
        assert raw.shape == tensor.shape, f"{name} has resized a tensor: give the device its own"
    return tree_map(lambda x: same.get(id(x), x) if id(x) in same else _simulated(x), out)


def _refuse_mixed(name: str, operation: Any, tensors: list[torch.Tensor]) -> None:
    """CUDA takes a CPU tensor beside its own only as the number in an element-wise operation."""
    number = torch.Tag.pointwise in operation.tags or name in (*MASKED, "fill_", "lift_fresh")
    written = operation._schema.arguments and operation._schema.arguments[0].is_write
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, SimulatedTensor):
            if number and tensor.dim() == 0 and not (written and place == 0):
                continue
            raise Mixed(
                f"{name}: a CPU tensor of shape {tuple(tensor.shape)} among the accelerator's"
            )


def _copy(name: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Between the CPU and the device, or within one of them."""
    if name == "_to_copy":
        (source,) = args
        target = torch.device(kwargs.get("device") or source.device)
        out = operation(_raw(source), **kwargs | {"device": "cpu", "pin_memory": None})
        if target.type == "cpu":
            _note("copy to the CPU")  # into new memory, which is not pinned
            return out
        if not isinstance(source, SimulatedTensor):
            _note_upload(source, kwargs.get("non_blocking"))
        return _simulated(out)
    to, source = (args[1], args[0]) if name == "_copy_from" else args[:2]
    waiting = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
    if not isinstance(to, SimulatedTensor):
        if not (waiting and is_pinned(to)):
            _note("copy to the CPU")
    elif not isinstance(source, SimulatedTensor):
        _note_upload(source, waiting)
    _raw(to).copy_(_raw(source))
    return to


def _note_upload(source: torch.Tensor, non_blocking: bool | None) -> None:
    if not (non_blocking and is_pinned(source)):
        _note("copy from pinned memory" if is_pinned(source) else "copy from pageable memory")


def _raw(tree: Any) -> Any:
    return tree_map(lambda x: x.raw if isinstance(x, SimulatedTensor) else x, tree)


def _simulated(x: Any) -> Any:
    return SimulatedTensor(x) if isinstance(x, torch.Tensor) else x


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of `torch.sim`."""

    def is_available(self) -> bool:
        """While it is chosen: else fake tensors would take this for a machine with a GPU."""
        return os.environ.get(chosen_device.CHOICE) == str(DEVICE)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


# Storages that were pinned, as long as they live: nothing is really locked in memory.
_pinned: WeakIdKeyDictionary = WeakIdKeyDictionary()


def pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
    copy = self.clone()
    _pinned[copy.untyped_storage()] = True
    return copy


def is_pinned(self: torch.Tensor, device: Any = None) -> bool:
    return self.device.type == "cpu" and self.untyped_storage() in _pinned


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None,
    dropout: float = 0.0, causal: bool = False, *, scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """By the kernel that the CPU chooses; torch would put it together from smaller operations."""
    options = {"attn_mask": mask, "scale": scale}
    kernel: Any = torch.ops.aten._scaled_dot_product_attention_math
    bias = None if mask is None else _raw(mask).detach().requires_grad_(mask.requires_grad)
    raw = [_raw(q), _raw(k), _raw(v), bias, dropout, causal]
    if torch._fused_sdp_choice(*raw, scale=scale) == int(SDPBackend.FLASH_ATTENTION.value):
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out: torch.Tensor = kernel(q, k, v, dropout_p=dropout, is_causal=causal, **options)[0]
    return out


def _freeze(network: Any, *args: Any, **kwargs: Any) -> Any:
    """A frozen TorchScript network is one operation: its interpreter takes the CPU's tensors only,
    and jit.load leaves its weights there.
    """
    frozen = _jit_freeze(network, *args, **kwargs)

    def call(x: torch.Tensor) -> torch.Tensor:
        return SimulatedTensor(frozen(x.raw)) if isinstance(x, SimulatedTensor) else frozen(x)

    return call


def _load(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    there = map_location is not None and torch.device(map_location).type == DEVICE.type
    return _jit_load(file, map_location="cpu" if there else map_location, **kwargs)


def _make(operation: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A new tensor of the device, made by the CPU's operation."""
    return SimulatedTensor(operation(*args, **kwargs | {"device": "cpu", "pin_memory": None}))


FACTORIES = (
    *("empty.memory_format", "empty_strided", "zeros", "ones", "full", "scalar_tensor", "eye"),
    *("arange", "arange.start", "arange.start_step", "linspace"),
)

# What autocast to bf16 does on CUDA to the operations of these networks.
_PRODUCTS = (*("linear", "matmul", "mm", "bmm", "addmm", "conv2d", "scaled_dot_product_attention"),)
_SUMS = ("layer_norm", "group_norm", "softmax.int", "log_softmax.int", "exp", "pow.Tensor_Scalar")
AUTOCAST = dict.fromkeys(_PRODUCTS, torch.bfloat16) | dict.fromkeys(_SUMS, torch.float32)


def _cast(operation: Any, precision: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """The operation on its tensors in this precision; integers and fp64 stay."""
    with torch.autocast(DEVICE.type, enabled=False):
        return operation(*_to(args, precision), **_to(kwargs, precision))


def _to(tree: Any, precision: torch.dtype) -> Any:
    halves = (torch.float32, torch.bfloat16)
    return tree_map(
        lambda x: x.to(precision) if isinstance(x, torch.Tensor) and x.dtype in halves else x, tree
    )


backend_registration._setup_privateuseone_for_python_backend("sim", backend_module=_Backend())
DEVICE = torch.device("sim", 0)
_library = torch.library.Library("aten", "IMPL")
for _factory in FACTORIES:
    _packet, _, _overload = _factory.partition(".")
    _operation = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    _library.impl(_factory, functools.partial(_make, _operation), "PrivateUse1")
_library.impl(
    "_copy_from",
    lambda source, to, non_blocking=False: _run(
        torch.ops.aten.copy_.default, (to, source), {"non_blocking": non_blocking}
    ),
    "PrivateUse1",
)
for _name in AUTOCAST:
    _packet, _, _overload = _name.partition(".")
    _operation = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    _library.impl(
        _name, functools.partial(_cast, _operation, AUTOCAST[_name]), "AutocastPrivateUse1"
    )
_others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_others.fallback(torch.library.fallthrough_kernel)
_library.impl("scaled_dot_product_attention", _attend, "AutogradPrivateUse1")
_library.impl(
    "silu_backward",
    lambda *args: _run(torch.ops.aten.silu_backward.default, args, {}),
    "PrivateUse1",
)
torch.Tensor.pin_memory = pin_memory
torch.Tensor.is_pinned = is_pinned
_jit_freeze, torch.jit.freeze = torch.jit.freeze, _freeze
_jit_load, torch.jit.load = torch.jit.load, _load
