"""What a fault did to a run: a row of the table."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.faults.runs import Case, World, code


@dataclass
class Result:
    """One row of the table."""

    fault: str
    processes: str
    runs: str
    ended: str  # how the struck command ended, in words
    tried: int = 0
    survived: int = 0
    refused: int = 0  # in one sentence with a cure
    bitwise: int = 0
    problem: str = ""

    def told(self, case: Case, pattern: str) -> None:
        """The struck command refused in one sentence, which matches."""
        said = [line for line in case.words().splitlines() if line.startswith("d2it: error: ")]
        assert len(said) == 1 and re.search(pattern, said[0]), case.words()[-2000:]
        self.ended = "“" + re.sub(r"\b(step|Process)([ -])\d+", r"\1\2N", said[0][13:]) + "”"
        self.refused += 1

    def finish(self, world: World, case: Case, processes: int = 1, faults: int = 1) -> None:
        """The same command again: it must end well, with the weights of an undisturbed run."""
        self.tried += faults
        try:
            if ended_as := case.run(processes):
                self.problem = f"{ended_as}: {case.words()[-2000:]}"
                return
            assert "Traceback" not in case.log(), case.log()[-2000:]
            self.survived += faults
            differing = world.differing(case)
            self.bitwise += 0 if differing else faults
            self.problem = ", ".join(differing) and f"differing: {differing}"
        except AssertionError as error:
            self.problem = str(error)


def stopped_midway(world: World, kind: str) -> Case:
    """A run with a few saved states, not finished."""
    case = world.case(kind)
    started = case.start()
    assert case.until(lambda: len(case.saved()) >= 2, started), case.log()
    os.kill(started.pid, signal.SIGTERM)
    assert code(started) == 128 + signal.SIGTERM, case.log()
    return case


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
