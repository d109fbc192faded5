"""Drawing latents with DiT and D²iT, beside diffusers' DiT with its own scheduler.

    python -m benchmarks.sampling [--device cuda]

DDIM steps of one block of images without guidance; decoding is the same for all and left out.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.common import arguments, interleaved, timed, write
from benchmarks.training import CHANNELS, RATIO, SIZES, diffusers_dit, of_gpu, shapes
from d2it.cost.macs import gmacs
from d2it.diffusion import Schedule, guided, sample
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT

STEPS = {"cpu": 4, "cuda": 50}


def maps_of(n: int, side: int) -> Tensor:
    """(n, h, w) half fine, in patches of 4 x 4 regions."""
    coarse = torch.rand(n, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
    return (coarse > RATIO).long().repeat_interleave(4, 1).repeat_interleave(4, 2)


def measure(device: str, name: str, repeats: int) -> list[dict[str, Any]]:
    from diffusers import DDIMScheduler

    side, width, depth, heads, _, batch = SIZES[device][name]
    dit, content = shapes(device, name)
    content |= {"skip_windows": True}
    theirs = diffusers_dit(side, width, depth, heads)
    networks = {"DiT": DiT(**dit), "D²iT": ContentTransformer(**content), "diffusers' DiT": theirs}
    for network in networks.values():
        network.to(device).eval()
    steps, y = STEPS[device], torch.arange(batch, device=device)
    maps = maps_of(batch, side // 2).to(device)
    precision = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def noise(step: int) -> Tensor:
        return torch.randn(batch, CHANNELS, side, side, device=device)

    @torch.inference_mode()
    def draw(label: str) -> Tensor:
        map = maps if label == "D²iT" else None
        with precision:
            model = guided(networks[label], y, map, 1.0, None)
            return sample(model, noise, Schedule(), "ddim", steps, 0.0, map, 2)

    @torch.inference_mode()
    def draw_theirs() -> Tensor:
        scheduler = DDIMScheduler(1000, clip_sample=False)
        scheduler.set_timesteps(steps)
        z = noise(0)
        for t in scheduler.timesteps:
            with precision:
                predicted = theirs(z, t.expand(batch).to(device), y).sample
            z = scheduler.step(predicted.float(), t, z).prev_sample
        return z

    calls = {"DiT": lambda: draw("DiT"), "D²iT": lambda: draw("D²iT")}
    calls |= {"diffusers' DiT": draw_theirs}
    rounds = interleaved(calls, repeats, device)
    found = {label: timed(spent) for label, spent in rounds.items()}
    base = found["diffusers' DiT"]["seconds"]
    macs = {"DiT": gmacs("dit", dit)["dense"], "D²iT": gmacs("content", content, RATIO)["sparse"]}
    rows = [
        {
            "size": name,
            "network": label,
            "images": batch,
            "steps": steps,
            "gmacs": round(macs.get(label, macs["DiT"]), 3),
            **row,
            "images_per_second": round(batch / (spent := row["seconds"]), 3),
            "tflops": round(2 * macs.get(label, macs["DiT"]) * batch * steps / spent / 1e3, 4),
            "over_diffusers": round(base / spent, 3),
        }
        for label, row in found.items()
    ]
    if device == "cuda":
        for row in rows:
            row |= of_gpu(row["tflops"], calls[row["network"]])
    return rows


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    rows = [
        row for name in SIZES[given.device] for row in measure(given.device, name, given.repeats)
    ]
    config = {"ratio": RATIO, "repeats": given.repeats}
    config["side, width, depth, heads, layers, batch"] = SIZES[given.device]
    write("sampling", given.device, config, rows)


if __name__ == "__main__":
    main()
