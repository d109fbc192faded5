"""One stage in many processes: each computes its share of the units, one puts them together.

A unit is a range of indices between borders of blocks, and the file that it is computed into. So
any number of shares gives the same bytes on one kind of device, which each file names
(d2it/units.py), and a unit that is there is not computed again.
`d2it <verb> ... --share 2/8` computes the second of eight shares; the same command without it
computes what is missing and writes the result. No torch is imported here.
"""

import argparse
import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from d2it.errors import UserError

WORKER = "D2IT_WORKER"  # set where standard input is the line to the process that waits

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The part-th of `parts` shares, counted from 1."""

    part: int
    parts: int

    def take(self, items: Sequence[Item], before: int = 0) -> Sequence[Item]:
        """Every parts-th unit of a list that `before` others precede."""
        return items[(self.part - 1 - before) % self.parts :: self.parts]

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"


def share_of(arguments: argparse.Namespace) -> Share | None:
    """What --share asks for; None: all, and the result."""
    if arguments.share is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", arguments.share)
    share = Share(int(found[1]), int(found[2])) if found else Share(0, 0)
    if not 1 <= share.part <= share.parts:
        raise UserError(
            f"--share is {arguments.share!r}, but must be one of n shares, from 1/n to n/n, e.g. "
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
