"""NVIDIA GPUs: what they can do at most, by the makers' data sheets (dense arithmetic, no
sparsity), and which of them this machine has.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from d2it.config.typed import nearest
from d2it.errors import UserError

DEVICES = Path("/dev")


@dataclass(frozen=True)
class Gpu:
    """Peaks in TFLOP/s, two FLOPs to a multiply-accumulate."""

    name: str
    bf16: float
    tf32: float
    fp32: float  # without tensor cores
    gigabytes: int  # of memory; about so many 10^9 bytes can be used


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a10", 125, 62.5, 31.2, 24),
        Gpu("a30", 165, 82, 10.3, 24),
        Gpu("a40", 149.7, 74.8, 37.4, 48),
        Gpu("a100", 312, 156, 19.5, 80),
        Gpu("a100-40", 312, 156, 19.5, 40),
        Gpu("a800", 312, 156, 19.5, 80),
        Gpu("a6000", 154.8, 77.4, 38.7, 48),
        Gpu("b200", 2250, 1100, 75, 180),
        Gpu("h20", 148, 74, 44, 96),
        Gpu("h100", 989, 494, 67, 80),
        Gpu("h100-pcie", 756, 378, 51, 80),
        Gpu("h200", 989, 494, 67, 141),
        Gpu("h800", 989, 494, 67, 80),
        Gpu("gh200", 989, 494, 67, 96),
        Gpu("l4", 121, 60, 30.3, 24),
        Gpu("l40s", 362, 183, 91.6, 48),
        Gpu("3090", 71, 35.6, 35.6, 24),
        Gpu("4090", 165.2, 82.6, 82.6, 24),
        Gpu("5090", 209.5, 104.8, 104.8, 32),
    )
}
GPUS["a100-80"] = GPUS["a100"]


def find_gpu(name: str) -> Gpu:
    """The GPU that a person calls `name`: a800, A100, h200."""
    gpu = GPUS.get(name.lower()) or identify(name)
    if gpu is None:
        raise UserError(
            f"There is no GPU {name!r}{nearest(name.lower(), list(GPUS))}: choose one of "
            f"{', '.join(GPUS)}."
        )
    return gpu


def identify(device: str) -> Gpu | None:
    """The GPU that a driver calls e.g. `NVIDIA A800-SXM4-80GB`; None: not in the table."""
    words = {word.removesuffix("gb") for word in re.split(r"[^a-z0-9]+", device.lower())}
    known = [name for name in GPUS if words.issuperset(name.split("-"))]
    return GPUS[max(known, key=len)] if known else None


def shown_gpus() -> list[Path]:
    """Those of this machine, given to this process or not, be the driver too old for torch."""
    return sorted(DEVICES.glob("nvidia[0-9]*"))


def opens(device: Path) -> bool:
    """Slurm shows a job all GPUs of its node, and lets it open those that it was given."""
    try:
        os.close(os.open(device, os.O_RDWR))
        return True
    except OSError:
        return False


def visible_gpus() -> list[str]:
    """Those that this process may use, found without torch: 0, GPU-<uuid> or MIG-<uuid>."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(i) for i in range(sum(map(opens, shown_gpus())))]  # CUDA counts these alone
    names = [name.strip() for name in named.split(",")]
    return [name for name in names if re.fullmatch(r"\d+|(GPU|MIG)-.+", name)]


def joinable(gpus: list[str]) -> list[str]:
    """Those that processes of one training can use together: NCCL joins no slices of GPUs."""
    return gpus[:1] if any(name.startswith("MIG-") for name in gpus) else gpus
