"""docs/benchmarks.md from every JSON in benchmarks/results/.

python -m benchmarks.page
"""

import ast
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from d2it.files import read_json, write_text

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

`make bench` measures all of this again on this machine's CPU, `make bench GPU=1` on its GPU, and
writes this page from the JSON files of `benchmarks/results/`. Candidates take turns in one run, and
medians are shown: the ratios between them travel to other machines, the seconds do not.
"""
NOT_MEASURED = """## On a GPU

Not measured yet: no JSON of a GPU is in `benchmarks/results/`.
"""


def section(path: Path) -> str:
    found = read_json(path, made_by="make bench")
    name, device = path.stem.rsplit("-", 1)
    source = Path(__file__).with_name(f"{name}.py")
    paragraphs = (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n\n")
    prose = [text for text in paragraphs if not text.strip().startswith("python -m")]
    machine, versions = found["hardware"], found["versions"]
    where = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join(
        [
            f"## {prose[0].rstrip('.')}",
            *prose[1:],
            table(found["rows"]),
            f"On {where}; {packages}. `benchmarks/results/{path.name}`.",
        ]
    )


def table(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[spelt(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spelt(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    paths = sorted(RESULTS.glob("*.json"))
    sections = [section(path) for path in paths]
    if not any(path.stem.endswith("-cuda") for path in paths):
        sections.append(NOT_MEASURED)
    write_text(PAGE, "\n".join([INTRODUCTION, "\n\n".join(sections)]).rstrip() + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
