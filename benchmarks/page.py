"""docs/benchmarks.md from the JSON files of benchmarks/results/.

python -m benchmarks.page
"""

import ast
from pathlib import Path

from benchmarks import curves, targets
from benchmarks.common import RESULTS, machine, table
from d2it.files import read_json, write_text

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

For anyone who asks how fast this is, beside whom, and on what: measured on CPUs only so far.
`make bench` measures all of this again on this machine's CPU, `make bench GPU=1` on its GPU, and
writes this page from the JSON files of `benchmarks/results/`. Candidates take turns in one run, and
medians of their rounds are shown: the ratios between them travel to other machines, the seconds do
not. *Spread*: how far apart the quartiles of a row's rounds are, over their median. Another run on
the same machine may move a ratio by more than its rounds do: calibration's moved by a quarter.

`make first-hour` is the short form for a GPU node: every stage at the published sizes within an
hour, each with a verdict ([cluster.md](cluster.md)). `make first-hour SIMULATED=1` runs the same
checks at a tiny size without a GPU, and measures nothing.
"""
TARGETS = """## Targets

What was aimed at: the median of the ratios of single rounds, which the tables below do not show,
and its interval in this run by the sign test (95 % from six rounds on; of fewer, the least and the
largest); *not decidable*: the interval contains the bound. *MAC bound*: by how many times a step
multiplies more than DiT's. The bounds were set for a GPU, whose rows are those of
`benchmarks/results/training-cuda.json`, once there is one; a CPU's stand beside them.

"""
NOT_MEASURED = """## On a GPU

Not measured yet: no JSON of a GPU is in `benchmarks/results/`.
"""


def section(path: Path) -> str:
    found = read_json(path, made_by="make bench")
    name, device = path.stem.rsplit("-", 1)
    source = Path(__file__).with_name(f"{name}.py")
    paragraphs = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").split(
        "\n\n"
    )
    prose = [text for text in paragraphs if not text.strip().startswith("python -m")]
    return "\n\n".join(
        [
            f"## {prose[0].rstrip('.')}",
            *prose[1:],
            table(curves.fitted(found["rows"]) if name == "scaling" else found["rows"]),
            f"On {machine(found)}. `benchmarks/results/{path.name}`.",
        ]
    )


def first_hour(path: Path) -> str:
    found = read_json(path, made_by="make first-hour")
    title = f"## The first hour on {found['hardware']['gpu']}"
    where = f"On {machine(found)}. `benchmarks/results/{path.name}`."
    return "\n\n".join([title, table(found["checks"]), where])


def page() -> str:
    hours = sorted(RESULTS.glob("first-hour-*.json"))
    paths = sorted(set(RESULTS.glob("*.json")) - set(hours))
    aims = [target.row(RESULTS) for target in targets.targets()]
    sections = [TARGETS + table(aims), *(section(path) for path in paths)]
    sections += [first_hour(path) for path in hours]
    if not hours and not any(path.stem.endswith("-cuda") for path in paths):
        sections.append(NOT_MEASURED)
    return "\n".join([INTRODUCTION, "\n\n".join(sections)]).rstrip() + "\n"


def main() -> None:
    write_text(PAGE, page())
    print(PAGE)


if __name__ == "__main__":
    main()
