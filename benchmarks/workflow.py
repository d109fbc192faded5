"""How long the workflow takes to say what it would do: the paper's grid, and help.

python -m benchmarks.workflow
"""

import subprocess
import sys
import tempfile

from benchmarks.common import ROOT, arguments, interleaved, timed, write

COMMANDS = {
    "dry run of the paper's grid": ["snakemake", "-n", "--quiet", "--config", "scale=paper"],
    "d2it --help": ["d2it", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def main() -> None:
    given = arguments(__doc__.splitlines()[0], gpu=False)
    with tempfile.TemporaryDirectory() as folder:  # a new clone, where everything is to be made
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        calls = {
            name: lambda command=command: subprocess.run(
                command, cwd=folder, check=True, capture_output=True
            )
            for name, command in COMMANDS.items()
        }
        rounds = interleaved(calls, given.repeats)
    rows = [{"command": name, **timed(spent)} for name, spent in rounds.items()]
    write("workflow", "cpu", {"repeats": given.repeats}, rows)


if __name__ == "__main__":
    main()
