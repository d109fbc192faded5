"""Spread a command's shares over processes of this machine, or hand them to a cluster."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from d2it.errors import UserError
from d2it.jobs import last_word
from d2it.jobs.launcher import load_launcher
from d2it.machine.gpus import visible_gpus
from d2it.runs.lease import making
from d2it.shares import WORKER, Share

ALONE = "D2IT_ALONE"  # set for shares whose place is held by the process that started them


@contextmanager
def spread(
    arguments: argparse.Namespace,
    stage: str,
    place: Path,
    share: Share | None,
    has_units: bool = True,
) -> Iterator[bool]:
    """Have this very command, which makes `place`, computed elsewhere if the launcher or
    --processes asks for it. What is left is up to the caller, who is alone at it meanwhile.

    By a cluster: all of it, and False is given. By processes of this machine: its shares, but not
    putting together what they leave. A share is computed by the caller.
    """
    count = 1 if share else _processes(arguments, stage, place, has_units)
    if not count:
        yield False
    elif share and ALONE in os.environ:  # who started it is at all of it
        yield True
    else:
        with making(place, arguments.wait, share):
            if count > 1:
                _compute_shares(arguments.words, stage, count)
            yield True


def _processes(arguments: argparse.Namespace, stage: str, place: Path, has_units: bool) -> int:
    """How many share the work here. 0: a cluster has done it."""
    launcher, count = load_launcher(), arguments.processes
    resources = launcher.of(stage)
    if count is None and launcher.cluster == "slurm" and resources.shares:
        from d2it.jobs.slurm_shares import compute_on_slurm

        shares = resources.shares if has_units else 0
        compute_on_slurm(arguments.words, stage, place, launcher, shares)
        return 0
    if count is None:
        count = resources.processes if launcher.cluster == "local" else 1
    if count < 1:
        raise UserError(f"--processes is {count}, but must be at least 1.")
    return count if has_units else 1


def _compute_shares(words: Sequence[str], stage: str, count: int) -> None:
    """In as many processes of this machine, which end with this one."""
    shares = [Share(i + 1, count) for i in range(count)]
    with TemporaryDirectory() as folder:
        read, write = os.pipe()
        workers = {share: _start(words, share, Path(folder), write) for share in shares}
        os.close(write)
        try:
            with (
                open(read, encoding="utf-8") as reports,
                tqdm(unit="image", desc=stage, disable=None) as bar,
            ):
                for line in reports:  # until the last of them has ended
                    bar.update(int(line) if line.strip().isdigit() else 0)
            codes = {share: worker.wait() for share, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.kill()
        for share, code in codes.items():
            if code:
                word = last_word.read(_place(Path(folder), share, "json"))
                if word is not None and word["error"]:
                    raise UserError(word["error"])
                last_word.show_end(_place(Path(folder), share, "log"))
                raise last_word.died(f"Process {share.part} of {share.parts}", code)


def _place(folder: Path, share: Share, suffix: str) -> Path:
    return folder / f"{share.part}.{suffix}"


def _start(
    words: Sequence[str], share: Share, folder: Path, write: int
) -> "subprocess.Popen[bytes]":
    last = {last_word.FILE: str(_place(folder, share, "json"))}
    environment = os.environ | {WORKER: "1", ALONE: "1"} | last
    gpus = visible_gpus()
    if gpus:  # one each, in turn
        environment["CUDA_VISIBLE_DEVICES"] = gpus[(share.part - 1) % len(gpus)]
    with open(_place(folder, share, "log"), "w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "d2it", *words, "--share", str(share)],
            stdin=subprocess.PIPE,
            stdout=write,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours, and ends them
        )
