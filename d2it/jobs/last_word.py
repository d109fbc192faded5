"""What a process leaves, as JSON, for the one that waits for it: the error that ended it, or none.

{"error": null}                   it ended well
{"error": "..."}                  a UserError's sentence, with the gaps for settings
{"error": ..., "died": true}      it died of something else: its log tells of what
{"error": null, "stopped": 15}    a training saved and left, as this signal asked
"""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from d2it.config.documents import told
from d2it.errors import UserError
from d2it.files import write_json

FILE = "D2IT_LAST_WORD"  # where a command that another has started leaves it
SHOWN = 20  # lines of the log of a process that died


class Word(TypedDict):
    error: str | None
    died: NotRequired[bool]
    stopped: NotRequired[int]


def write(path: Path | str, error: UserError | None, **more: Any) -> None:
    with suppress(OSError):  # the disk may be what is full
        write_json(path, {"error": error and error.sentence, **more})


def read(path: Path) -> Word | None:
    return told(Word, path)


def died(who: str, code: int) -> UserError:
    """Of a process that left nothing."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    how += ", as when memory runs out" if code == -signal.SIGKILL else ""
    return UserError(f"{who} {how}: the same command goes on from the units that are finished.")


def show_end(log: Path) -> None:
    """The last lines of a failed process's log."""
    if log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        print("".join(lines[-SHOWN:]), file=sys.stderr)
