"""Training steps of DiT and D²iT, beside the published recipe around diffusers' DiT.

    python -m benchmarks.training [--device cuda]

All candidates learn from the same latents, in turns, in one process. Ours go through the real
loop's batches and trainer: posterior, mirroring, noise, loss, clipping, AdamW, average, masks. The
peer is the loop that DiT was published with: DataLoader, one AdamW step, an average parameter by
parameter, `loss.item()`, in fp32, on a GPU in TF32, whatever ours computes in. "Equal dtype and
compile" takes those waits away, and gives it our `precision`, on a GPU compiled blocks too.
diffusers embeds time and class in every block, where the published DiT and ours do once: more
parameters for its optimiser, the same multiplications.

The published scale trains in bf16, the demo in fp32; the size B is shown in both on a CPU, if that
multiplies in bf16. Maps are in patches of 4 x 4 regions, so that no window holds both grains:
"windows with fine regions" are the fewest that there can be. With maps of photographs skipping
spares less: the variants below measure it. Batches on a GPU are what an H200 should hold beside the
states of all five networks, by a count of bytes; a size that does not fit is left out.
"""

import copy
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from benchmarks.common import arguments, interleaved, timed, use_all_cores, write
from d2it.clock import Order
from d2it.config.ratios import finest
from d2it.config.schema import Training
from d2it.cost.macs import gmacs
from d2it.diffusion import Schedule
from d2it.latents.cache import Latents, shard_arrays
from d2it.machine.device import arithmetic, multiplies_bf16
from d2it.machine.gpus import find_gpu
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT
from d2it.runs.plan import Plan
from d2it.training.batches import Batches
from d2it.training.loop import make_accelerator
from d2it.training.task import Learner, Task
from d2it.training.trainer import Trainer
from d2it.training.transformers import CodesTask, ContentTask, DitTask

RATIO, CHANNELS, CLASSES, WINDOW = 0.5, 4, 1000, 4
# name: side of the latents, width, depth, heads, DiT and RefineNet layers, images per step
SIZES = {
    "cpu": {"demo": (16, 64, 6, 4, (5, 1), 8), "B": (32, 768, 12, 12, (10, 2), 2)},
    "cuda": {
        "B": (32, 768, 12, 12, (10, 2), 256),
        "L": (32, 1024, 24, 16, (20, 4), 32),
        "XL": (32, 1152, 28, 16, (23, 5), 32),
    },
}
Precision = Literal["fp32", "bf16"]
PRECISIONS: dict[str, dict[str, tuple[Precision, ...]]] = {
    "cpu": {"demo": ("fp32",), "B": ("fp32", "bf16")},
    "cuda": dict.fromkeys(SIZES["cuda"], ("bf16",)),
}


def latents_in(folder: Path, side: int, images: int) -> Latents:
    """Random moments, and entropies uniform in [0, 1), in patches of 4 x 4 regions."""
    header: dict[str, Any] = {"factors": [16, 8], "channels": CHANNELS, "side": side}
    header |= {"classes": CLASSES, "ratios": {}, "files": {}}
    header["splits"] = {"train": {"shards": [{"name": "train-00000", "count": images}]}}
    random = np.random.default_rng(0)
    for ending, (dtype, shape) in shard_arrays(header, images).items():
        values = random.integers(0, CLASSES, shape) if ending == "labels" else random.random(shape)
        path = folder / f"train-00000-{ending}.bin"
        values.astype(dtype).tofile(path)
        header["files"][path.name] = {"bytes": path.stat().st_size}
    regions = shard_arrays(header, images)["entropy"][1][1]
    coarse = random.random((images, regions // 4, regions // 4))
    entropy = coarse.repeat(4, axis=1).repeat(4, axis=2)
    entropy.astype("<f4").tofile(folder / "train-00000-entropy.bin")
    header["ratios"] = {f"{r:g}": {"cuts": [1 - r], "scale": 1.0} for r in (0, 0.25, 0.5, 0.75)}
    header["ratios"]["1"] = {"cuts": ["-inf"], "scale": 1.0}
    return Latents(folder, "train", header)


def task_of(
    kind: str, network: nn.Module, latents: Latents, training: Training, ratio: float
) -> CodesTask:
    """The project's own task, around a network and latents that no configuration names."""
    content = kind == "content"
    task = object.__new__(ContentTask if content else DitTask)
    task.kind, task.latents, task.size = kind, latents, len(latents)
    task.ratio = ratio if content else finest(2)
    task.scale = latents.scale(task.ratio)
    task.normaliser = 1.0 if content else None
    task.flip, task.classes, task.label_dropout = True, CLASSES, training.label_dropout
    task.schedule, task.shared_noise = Schedule(), True
    task.learners = [Learner(kind, network, training, training.learning_rate)]
    return task


def ours(
    kind: str,
    network: nn.Module,
    latents: Latents,
    training: Training,
    device: str,
    ratio: float = RATIO,
) -> Callable[[], None]:
    """A step of the project's training loop."""
    plan = Plan(kind, kind, Path(), training, 0, (), {}, {}, {})
    return stepping(plan, task_of(kind, network, latents, training, ratio), device)[1]


def stepping(plan: Plan, task: Task, device: str) -> tuple[Trainer, Callable[[], None]]:
    """The trainer of a task, and what does its next step from the batches that training has."""
    accelerator, training = make_accelerator(plan, device), plan.training
    trainer = Trainer(plan, task, accelerator)
    order = Order(plan.seed, task.size)
    pin = accelerator.device.type != "cpu"
    batches = Batches(task, order, plan.seed, training.batch, training.shards, trainer.mine, pin)
    batches.start(0, 10**9)
    seen = 0

    def step() -> None:
        nonlocal seen
        trainer.step(batches.take(), seen)
        seen += training.batch

    return trainer, step


def shapes(device: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The constructor arguments of our DiT and our D²iT of one size."""
    side, width, depth, heads, layers, _ = SIZES[device][name]
    size = {"side": side, "channels": CHANNELS, "width": width, "heads": heads}
    size |= {"classes": CLASSES, "learn_sigma": False}
    content = {"grains": 2, "layers": layers, "window": WINDOW}
    return size | {"patch": 2, "depth": depth}, size | content


def diffusers_dit(side: int, width: int, depth: int, heads: int) -> nn.Module:
    """The peer of the same size."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=depth,
        sample_size=side,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )


def published(
    side: int,
    width: int,
    depth: int,
    heads: int,
    latents: Latents,
    training: Training,
    device: str,
    fast: bool,
) -> Callable[[], None]:
    """A step of the plain loop around diffusers' DiT."""
    from diffusers import DDPMScheduler

    network = diffusers_dit(side, width, depth, heads).to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    if fast and device == "cuda":
        for block in network.transformer_blocks:
            block.compile()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=0, fused=fast or None
    )
    noising = DDPMScheduler(1000)
    noising.alphas_cumprod = noising.alphas_cumprod.to(device)
    codes = torch.from_numpy(latents._gather(np.arange(len(latents)), ["grain1"])["grain1"])
    data = torch.utils.data.TensorDataset(codes[:, 0, 0].float(), torch.from_numpy(latents.labels))
    loader = torch.utils.data.DataLoader(
        data, batch_size=training.batch, shuffle=True, drop_last=True, pin_memory=device == "cuda"
    )
    decay, batches = 0.9999, iter(loader)
    autocast = torch.autocast(device, torch.bfloat16, enabled=fast and training.precision == "bf16")

    @arithmetic(device, "fp32" if fast else "tf32")  # TF32: as DiT's own train.py says
    def step() -> None:
        nonlocal batches
        try:
            z0, y = next(batches)
        except StopIteration:
            batches = iter(loader)
            z0, y = next(batches)
        z0, y = z0.to(device), y.to(device)
        t = torch.randint(0, 1000, (len(z0),), device=device)
        noise = torch.randn_like(z0)
        with autocast:
            predicted: Tensor = network(noising.add_noise(z0, noise, t), t, y).sample
            loss = (predicted.float() - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            if fast:
                pairs = list(average.parameters()), list(network.parameters())
                torch._foreach_lerp_(*pairs, 1 - decay)
            else:
                for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                    mean.mul_(decay).add_(value, alpha=1 - decay)
        if not fast:
            loss.item()

    return step


def measure(
    device: str, name: str, precision: Precision, repeats: int, folder: Path
) -> list[dict[str, Any]]:
    AcceleratorState._reset_state()  # of another precision, which a process keeps
    side, width, depth, heads, _, batch = SIZES[device][name]
    latents = latents_in(folder, side, max(64, 2 * batch))
    training = Training(
        images=0,
        batch=batch,
        learning_rate=1e-4,
        shards=1,
        ema_half_life=1e6,
        label_dropout=0.1,
        precision=precision,
        compile=device == "cuda",
    )
    dit, content = shapes(device, name)
    sparse = content | {"skip_windows": True}
    networks = {
        "DiT": ("dit", dit),
        "D²iT, all windows": ("content", content),
        "D²iT, windows with fine regions": ("content", sparse),
    }
    steps, macs = dict[str, Callable[[], None]](), dict[str, float]()
    with torch.device("meta"):
        theirs = parameters(diffusers_dit(side, width, depth, heads))
    counts = dict[str, int]()
    for label, (kind, shape) in networks.items():
        network = (DiT if kind == "dit" else ContentTransformer)(**shape)
        counts[label] = parameters(network)
        steps[label] = ours(kind, network, latents, training, device)
        macs[label] = gmacs(kind, shape, RATIO)["sparse" if shape is sparse else "dense"]
    peer = (side, width, depth, heads, latents, training, device)
    steps["diffusers' DiT, published loop"] = published(*peer, fast=False)
    steps["diffusers' DiT, equal dtype and compile"] = published(*peer, fast=True)
    found = {label: timed(spent) for label, spent in interleaved(steps, repeats, device).items()}
    base, our_dit = (found[label]["seconds"] for label in ("diffusers' DiT, published loop", "DiT"))
    rows = []
    for label, row in found.items():
        spent = row["seconds"]
        forward = macs.get(label, macs["DiT"])
        rows.append(
            {
                "size": name,
                "network": label,
                "precision": precision,
                "batch": batch,
                "parameters_m": round(counts.get(label, theirs) / 1e6, 2),
                "gmacs": round(forward, 3),
                **row,
                "images_per_second": round(batch / spent, 2),
                # forward and backward are 3 x 2 operations a MAC
                "tflops": round(6 * forward * batch / spent / 1e3, 4),
                "over_published_loop": round(base / spent, 3),
                "over_our_dit": round(our_dit / spent, 3),
                "mac_bound_over_our_dit": round(macs["DiT"] / forward, 3),
            }
        )
        if device == "cuda":
            rows[-1] |= of_gpu(rows[-1]["tflops"], steps[label])
    return rows


def parameters(network: nn.Module) -> int:
    """Those that are trained."""
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def of_gpu(tflops: float, step: Callable[[], Any]) -> dict[str, float]:
    """The share of the GPU's bf16 peak, and the memory of a step."""
    peak = find_gpu(torch.cuda.get_device_name()).bf16
    return {"mfu": round(tflops / peak, 3), "step_memory_gb": round(step_memory(step) / 1e9, 1)}


def step_memory(step: Callable[[], Any]) -> int:
    """Bytes of a step beside what lies on the GPU anyway: weights and states of all."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    lying = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - lying


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    use_all_cores()
    config = {"ratio": RATIO, "window": WINDOW, "classes": CLASSES, "repeats": given.repeats}
    config["side, width, depth, heads, layers, batch"] = SIZES[given.device]
    rows = []
    for name, precisions in PRECISIONS[given.device].items():
        for precision in precisions:
            if (given.device, precision) == ("cpu", "bf16") and not multiplies_bf16():
                print(f"{name} in bf16 is not measured: this CPU imitates it, a step takes minutes")
                continue
            try:
                with tempfile.TemporaryDirectory() as folder:
                    rows += measure(given.device, name, precision, given.repeats, Path(folder))
            except torch.OutOfMemoryError:
                print(f"{name} in {precision} is not measured: it does not fit into this GPU")
            gc.collect()  # networks and what refers to them in a circle
            write("training", given.device, config, rows)  # what comes next may not end


if __name__ == "__main__":
    main()
