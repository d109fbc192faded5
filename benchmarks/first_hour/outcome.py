"""What a check finds, and by what it is judged."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.first_hour.setting import Setting

SLOWER = 1.25  # times the planned seconds: up to that a check is as fast as planned
LARGER = 1.15  # times the planned memory
START = 60.0  # seconds in which a process imports, loads and compiles: no plan knows of them


@dataclass(frozen=True)
class Found:
    measured: str
    planned: str = ""
    wrong: str = ""  # what to do
    slower: bool = False
    row: dict[str, Any] = field(default_factory=dict)  # of the JSON: what `d2it plan` reads
    facts: dict[str, Any] = field(default_factory=dict)  # of the machine

    @property
    def verdict(self) -> str:
        if self.wrong:
            return f"wrong: {self.wrong}"
        return "slower than planned" if self.slower else "right"


def is_slow(setting: Setting, seconds: float, planned: float, start: float = 0.0) -> bool:
    return setting.judged and seconds > SLOWER * planned + start


def spell(seconds: float) -> str:
    return f"{seconds:.3g} s"
