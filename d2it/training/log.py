"""What a run tells: metrics.jsonl for programs, log.txt for people, a bar for whoever watches."""

import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

import torch
from tqdm import tqdm

from d2it.config.documents import told_in
from d2it.files import write_text
from d2it.machine.gpus import identify


class Line(TypedDict):
    """Of metrics.jsonl, what is read again."""

    images: int


class Sums:
    """Running sums of logged scalars per shard, on the device: nothing waits until they are read.

    Per shard, so that any number of processes sums in the same order and reads the same bits.
    """

    def __init__(self, shards: int, mine: range, device: torch.device):
        self.shards, self.mine, self.device = shards, mine, device
        # by the terms of a step, joined with commas: (2: sum and count, terms, shards)
        self.tables: dict[str, torch.Tensor] = {}

    def add(self, terms: dict[str, torch.Tensor], trust: torch.Tensor) -> None:
        """Add a step's terms, each (this process's shards,), unless it was bad (`trust` 0)."""
        key = ",".join(terms)
        values = torch.stack(list(terms.values())).double()
        if key not in self.tables:
            shape = (2, len(terms), self.shards)
            self.tables[key] = torch.zeros(shape, dtype=torch.float64, device=self.device)
        table = self.tables[key][:, :, self.mine.start : self.mine.stop]
        table[0] += torch.where(trust > 0, values, 0.0)
        table[1] += trust

    def total(self, reduce: Any) -> dict[str, torch.Tensor]:
        """The tables of all processes: an entry is non-zero in one only, so the sum is exact."""
        return {key: reduce(self.tables[key].clone(), "sum") for key in sorted(self.tables)}

    @staticmethod
    def means(tables: dict[str, torch.Tensor]) -> dict[str, float]:
        """Mean of every term over the steps in which it was logged, then over shards."""
        sums: dict[str, torch.Tensor] = {}
        for key, table in tables.items():
            for i, name in enumerate(key.split(",")):
                sums[name] = sums.get(name, 0) + table[:, i].cpu()
        means = {name: (total / count).mean().item() for name, (total, count) in sums.items()}
        return {
            name: mean for name, mean in means.items() if mean == mean
        }  # untrusted steps only: none

    def load(self, tables: dict[str, torch.Tensor]) -> None:
        """Take up saved tables, each process its own shards of them."""
        self.tables = {}
        for key, table in tables.items():
            self.tables[key] = torch.zeros_like(table, device=self.device)
            mine = slice(self.mine.start, self.mine.stop)
            self.tables[key][:, :, mine] = table[:, :, mine].to(self.device)


class RunLog:
    """Files of the run folder and the terminal. `active` in one process only."""

    def __init__(self, folder: Path, title: str, images: int, active: bool):
        self.folder, self.active, self.title = folder, active, title
        self.bar: tqdm[Any] | None = None
        self.images = images
        self.terminal = active and sys.stderr is not None and sys.stderr.isatty()

    def start(self, images: int) -> None:
        """Forget lines after `images`: they will be written again."""
        if not self.active:
            return
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            found = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(f"{line}\n" for line in found if _images(line, images)))
        if self.terminal:
            self.bar = tqdm(
                total=self.images,
                initial=images,
                desc=self.title,
                unit="img",
                unit_scale=True,
                smoothing=0.1,
            )

    def step(self, images: int) -> None:
        if self.bar is not None:
            self.bar.update(images - self.bar.n)

    def metrics(self, line: dict[str, Any], loss: float | None) -> None:
        if not self.active:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        done, rate = line["images"], line["images_per_second"]
        shown = "" if loss is None else f"loss {loss:.4f}, "
        left = (self.images - done) / rate if rate else 0
        if self.bar is not None:
            self.bar.set_postfix_str(f"{shown}{rate:.0f} img/s", refresh=False)
        text = f"{done}/{self.images} images, {shown}{rate:.1f} images/s, {_clock(left)} left"
        self.say(text, terminal=self.bar is None)

    def say(self, text: str, terminal: bool = True) -> None:
        """A line in log.txt and, unless the bar shows the same, on the terminal."""
        if not self.active:
            return
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        if terminal:
            with contextlib.suppress(OSError):  # whoever read our output is gone; training goes on
                tqdm.write(f"{self.title}: {text}", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _images(line: str, images: int) -> bool:
    """Whether a line of metrics.jsonl is whole and not after `images`."""
    found = told_in(Line, line)
    return found is not None and found["images"] <= images


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def peak_of(device: str, precision: str) -> float | None:
    """FLOP/s that one device can reach; None: not known. Convolutions in fp32 use TF32 on GPUs."""
    gpu = identify(device)
    if gpu is None:
        return None
    return 1e12 * (gpu.bf16 if precision == "bf16" else gpu.tf32)


def utilisation(flops: float, peak: float | None) -> dict[str, float | None]:
    """Achieved model FLOP/s of all processes in TFLOP/s, and their share of the peak (MFU)."""
    return {
        "tflops": float(f"{flops / 1e12:.4g}"),
        "mfu": float(f"{flops / peak:.4g}") if peak else None,
    }


def memory_bytes(device: torch.device) -> int:
    """Most memory used so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, but bytes on macOS
