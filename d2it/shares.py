"""One stage in many processes: each computes its share of the units, one puts them together.

A unit is a range of indices between borders of blocks, and the file that it is computed into. So
any number of shares gives the same bytes on one kind of device, which each file names
(d2it/units.py), and a unit that is there is not computed again.
`d2it <verb> ... --shard 2/8` computes the second of eight shares; the same command without it
computes what is missing and writes the result. No torch is imported here.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TypeVar

from tqdm import tqdm

from d2it.errors import UserError
from d2it.jobs.launch import load_launcher
from d2it.machine.gpus import visible_gpus

WORKER = "D2IT_WORKER"  # set where standard input is the line to the process that waits
SHOWN = 20  # lines of the log of a process that died

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Share:
    """The part-th of `parts` shares, counted from 1."""

    part: int
    parts: int

    def take(self, units: Sequence[Unit], before: int = 0) -> Sequence[Unit]:
        """Every parts-th unit of a list that `before` others precede."""
        return units[(self.part - 1 - before) % self.parts :: self.parts]

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes on this machine; the numbers are the same (default: the launcher's, 1)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="compute only the I-th of N shares, e.g. on N machines that share a disk; the "
        "same command without it puts them together",
    )


def share_of(arguments: argparse.Namespace) -> Share | None:
    """What --shard asks for; None: all, and the result."""
    if arguments.shard is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", arguments.shard)
    share = Share(int(found[1]), int(found[2])) if found else Share(0, 0)
    if not 1 <= share.part <= share.parts:
        raise UserError(
            f"--shard is {arguments.shard!r}, but must be one of n shares, from 1/n to n/n, e.g. "
            "2/8."
        )
    if WORKER in os.environ:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return share


def _end_with_parent() -> None:
    """Its end of the line closes when it is gone, be it by kill -9."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def report(images: int) -> None:
    """Tell the process that waits that a unit of so many images is there."""
    if WORKER in os.environ:
        print(images, flush=True)


def spread(arguments: argparse.Namespace, stage: str, has_units: bool = True) -> bool:
    """Have this very command computed elsewhere, if the launcher or --processes asks for it.

    By a cluster: all of it, and the answer is True. By processes of this machine: its shares, and
    putting together what they leave is up to the caller. A share is computed by the caller.
    """
    if arguments.shard is not None:
        return False
    launcher, count = load_launcher(), arguments.processes
    resources = launcher.of(stage)
    if count is None and launcher.cluster == "slurm" and resources.shares:
        from d2it.jobs.slurm_shares import run_on_slurm

        run_on_slurm(arguments.words, stage, launcher, resources.shares if has_units else 0)
        return True
    if count is None:
        count = resources.processes if launcher.cluster == "local" else 1
    if count < 1:
        raise UserError(f"--processes is {count}, but must be at least 1.")
    if count == 1 or not has_units:
        return False
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count)]
        read, write = os.pipe()
        shares = [Share(i + 1, count) for i in range(count)]
        workers = [_start(arguments.words, *pair, write) for pair in zip(shares, logs, strict=True)]
        os.close(write)
        try:
            with open(read) as reports, tqdm(unit="image", desc=stage, disable=None) as bar:
                for line in reports:  # until the last of them has ended
                    bar.update(int(line) if line.strip().isdigit() else 0)
            codes = [worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        for share, code, log in zip(shares, codes, logs, strict=True):
            if code:
                log.seek(0)
                who = f"Process {share.part} of {share.parts}"
                told, shown = explain(who, code, log.read().splitlines())
                for line in shown:
                    print(line, file=sys.stderr)
                raise UserError(told)
    return False


def _start(
    words: Sequence[str], share: Share, log: IO[str], write: int
) -> "subprocess.Popen[bytes]":
    environment = os.environ | {WORKER: "1"}
    gpus = visible_gpus()
    if gpus:  # one each, in turn
        environment["CUDA_VISIBLE_DEVICES"] = gpus[(share.part - 1) % len(gpus)]
    return subprocess.Popen(
        [sys.executable, "-m", "d2it", *words, "--shard", str(share)],
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=log,
        env=environment,
        start_new_session=True,  # Ctrl-C is ours, and ends them
    )


def explain(who: str, code: int, log: list[str]) -> tuple[str, list[str]]:
    """The sentence of a process that failed, and the lines of its log that say more."""
    said = re.match(r"d2it: error: (.*)", log[-1]) if log else None
    if said:
        return said[1], []
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    told = f"{who} {how}: the same command goes on from the units that are finished."
    return told, log[-SHOWN:]
