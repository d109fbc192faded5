"""The node: versions, GPUs and their links, free memory, and who else computes there."""

import csv
import re
import shutil
import subprocess
from dataclasses import dataclass

import torch

from benchmarks.common import hardware
from benchmarks.first_hour.setting import Found, Setting
from d2it.errors import UserError
from d2it.machine.device import cuda_error, has_cuda

TAKEN = 1 / 8  # of a GPU's memory: when more is, it is busy


@dataclass(frozen=True)
class Device:
    name: str
    uuid: str
    free: float  # GB
    total: float
    error: str | None = None  # where it cannot add one and one


def looked_at(setting: Setting) -> Found:
    """Raises UserError where nothing that follows can work."""
    if setting.simulated:
        facts = hardware("cpu") | {"gpu": setting.gpu}
        return Found(f"torch {torch.__version__}, {facts['cores']} cores", facts=facts)
    told = smi("--query-compute-apps=gpu_uuid,pid,process_name,used_memory")  # before we are one
    devices = visible_devices()
    apps = strangers(told, devices)
    links = re.sub(r"\x1b\[[0-9;]*m", "", smi("topo", "-m"))  # of its heading
    driver = smi("--query-gpu=driver_version").partition("\n")[0]
    facts = hardware("cuda") | {
        "gpus": len(devices),
        "memory_gb": [round(one.total, 1) for one in devices],
        "free_gb": [round(one.free, 1) for one in devices],
        "driver": driver or "not known",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "links": links,
    }
    free = " ".join(f"{one.free:.0f}/{one.total:.0f}" for one in devices)
    text = (
        f"{len(devices)} x {devices[0].name}, {free} GB free; driver {facts['driver']}, torch "
        f"{torch.__version__}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}, NCCL {facts['nccl']}; "
        f"{len(apps)} other processes"
    )
    return Found(text, wrong="; ".join(complaints(devices, apps)), facts=facts)


def visible_devices() -> list[Device]:
    if not has_cuda():
        raise UserError(
            f"torch cannot use the GPU of this node ({cuda_error('cuda')}): it wants a driver for "
            f"CUDA {torch.version.cuda}; choose another node, or ask the administrator."
        )
    return [device_of(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]


def device_of(device: torch.device) -> Device:
    known, error = torch.cuda.get_device_properties(device), cuda_error(device)
    free, total = (0, known.total_memory) if error else torch.cuda.mem_get_info(device)
    return Device(known.name, f"GPU-{known.uuid}", free / 1e9, total / 1e9, error)


def smi(*arguments: str) -> str:
    """What nvidia-smi says; nothing where it is missing or refuses, as within some containers."""
    program = shutil.which("nvidia-smi")
    table = ["--format=csv,noheader,nounits"] if arguments[0].startswith("--query") else []
    if program is None:
        return ""
    said = subprocess.run([program, *arguments, *table], capture_output=True, text=True, timeout=60)
    return said.stdout.strip() if said.returncode == 0 else ""


def strangers(told: str, devices: list[Device]) -> list[tuple[str, str]]:
    """Processes on these GPUs: the uuid of the GPU, and a few words."""
    known = {one.uuid for one in devices}
    rows = [[cell.strip() for cell in row] for row in csv.reader(told.splitlines())]
    return [
        (row[0], f"process {row[1]}, {row[2]}, {row[3]} MiB")
        for row in rows
        if len(row) == 4 and row[0] in known
    ]


def complaints(devices: list[Device], apps: list[tuple[str, str]]) -> list[str]:
    """What is wrong with the node, and what to do."""
    found = []
    kinds = sorted({one.name for one in devices})
    if len(kinds) > 1:
        found.append(
            f"the GPUs differ ({', '.join(kinds)}), and so do their last bits: choose equal ones "
            "with CUDA_VISIBLE_DEVICES"
        )
    for number, one in enumerate(devices):
        if one.error:
            found.append(f"GPU {number} cannot compute ({one.error}): use another node")
        elif one.free < (1 - TAKEN) * one.total:
            who = "; ".join(text for uuid, text in apps if uuid == one.uuid) or "nobody we can see"
            found.append(
                f"GPU {number} is busy, {one.free:.0f} of {one.total:.0f} GB are free ({who}): "
                "choose others with CUDA_VISIBLE_DEVICES, or wait"
            )
    return found
