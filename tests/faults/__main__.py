"""Strike training in every way that is known, and say what became of it.

python -m tests.faults --kills 20 [--seed 0] [--write docs/faults.md]     (make test-faults)
"""

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.matrix import matrix
from tests.faults.result import Result
from tests.faults.runs import World

HEADER = """# Faults: what was done to training and to what it made, and what became of it

For anyone who trusts days of computing to it, or changes how it saves and resumes.

Written by `make test-faults KILLS={kills} WRITE=docs/faults.md` (seed {seed}, {minutes:.0f} min).
Real runs of `d2it train`, of all four kinds, at 32 px and of 10 to 40 steps, each in processes of
its own: one process is forked from a server that has imported torch and runs the command line's
`main`; two are the command with its workers. After every fault the same command is given again.
*Survived*: it ended well. *Refused*: a command said in one sentence what is wrong and how to mend
it, and that was done; a traceback anywhere is a failure. *Bitwise*: published weights, states,
milestones and log lines are those of a run that nothing happened to, byte by byte. A disk that is
nearly full and a kill between micro-batches are put into the process (`tests/faults/injected.py`);
all else comes from outside.

The last rows flip a bit in the middle of one file of each kind that a finished study holds, with
its time of change kept, as a failing disk does. Then comes the next command that reads the file,
and unless that made it anew `d2it verify`. *Survived*: the command made it anew byte for byte, or
one of the two named it with a cure, which worked. *Bitwise*: the table is the same afterwards; of
unfinished units, the latents.
How it works: [training.md](training.md).

"""
FOOTER = """
## What is not checked

- Logs and notes of a run (`log.txt`, `metrics.jsonl`, `config.yaml`, `jobs.json`): a flipped bit is
  not noticed, and commands go on. The page's curves and the seconds in provenance come from them.
- `seconds.json`, what evaluations and latents took: only the estimate of `d2it status` rests on it.
- `data/sources.csv`, to which people add rows: a flipped bit in a name or a sha256 makes commands
  refuse the file or ask for new runs; `git diff` shows it.
- Locks and heartbeats: they say nothing once their process has ended.
- What people look at (tables, figures, `metrics.json`, the page and its pictures) is under no
  digest: its command writes it anew, byte for byte.
- Large files (weights, packed images, latents, states) when a command starts: size or time of
  change alone are compared there. `d2it verify` and `d2it verify --made` read every byte.

## What was not tried

- GPUs, several machines, network file systems: [slurm_faults.md](slurm_faults.md) has a cluster.
- A bit that flips in memory, or while a command reads; two at once.
- Code and `params/`, which are git's; archives that images come from; `claims.md`, which this study
  lacks; unfinished units of evaluations, which are files of the same kind. Exported folders have
  tests of their own (`tests/test_hostile_folders.py`).
- Fetching damaged LPIPS weights again, which needs the network: they were copied, as `d2it fetch`
  says where it finds no address.
"""
COUNTS = ("tried", "survived", "refused", "bitwise")
COLUMNS = ("fault", "processes", "runs", *COUNTS, "what the command did")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", metavar="FILE")
    given = parser.parse_args()
    began = time.monotonic()
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # it misses what was killed
    print(f"seed {given.seed}", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "world")
        print(f"undisturbed runs: {time.monotonic() - began:.0f} s", flush=True)
        for fault in matrix(given.kills, random.Random(given.seed)):
            start = time.monotonic()
            try:
                for result in fault(world):
                    results.append(result)
                    print(" | ".join(cells(result)), f"({time.monotonic() - start:.0f} s)")
                    start = time.monotonic()
                    if result.problem:
                        print(result.problem)
                    sys.stdout.flush()
            except Exception:
                traceback.print_exc()
                results.append(Result("a fault could not be tried", "", "", "", tried=1))
    if given.write:
        minutes = (time.monotonic() - began) / 60
        head = HEADER.format(kills=given.kills, seed=given.seed, minutes=minutes)
        rows = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, results)]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        Path(given.write).write_text(f"{head}{table}\n{total(results)}\n{FOOTER}")
    print(total(results))
    good = all(r.tried == r.survived == r.bitwise and not r.problem for r in results)
    return 0 if good else 1


def cells(result: Result) -> list[str]:
    numbers = [str(getattr(result, name)) for name in COUNTS]
    return [result.fault, result.processes, result.runs, *numbers, result.ended]


def total(results: list[Result]) -> str:
    return " ".join(f"{name}={sum(getattr(r, name) for r in results)}" for name in COUNTS)


if __name__ == "__main__":
    sys.exit(main())
