"""docs/settings.md: every setting, with its default at each scale, its range and its meaning.

python -m tools.settings_page
"""

from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from d2it.config.explain import Studied, is_table, moved_runs, shown, studied
from d2it.config.load import interpolated, load, params_folder
from d2it.config.settings import Setting, walk
from d2it.files import write_text
from d2it.text import markdown_table

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """\
# Every setting

For anyone who writes an experiment or a scale, or overrides a setting on the command line:
`d2it train d2it_b scale=smoke training.content.batch=16`. `d2it config --explain
training.content.batch` says the same of one setting, what sets it, and which runs it decides.

- **Default**: the value at each scale; for the entries of a table the schema's, – where each entry
  must say it.
- **Identity**: yes: at some scale, another value makes another run, with a folder of its own.

Where a stage is computed stands in a launcher: [params/launcher/](../params/launcher/).
`python -m tools.settings_page` writes this page from [schema.py](../d2it/config/schema.py) and
[params/](../params/).
"""
COLUMNS = ("setting", "type", "default", "identity", "meaning")
LONG = 40  # characters of a value that no table shows
TRIED = 2  # entries of a table whose identity is looked at
IDENTITY = ("smoke", "paper")  # scales at which it is: between them they have every kind of run
ENTRY = "<name>"  # in place of the names that a study gives its runs, data sets and sizes

Named = dict[str, list[tuple[Setting, Any]]]


def patterns(config: Any) -> Named:
    """The settings by name, those of the entries of one table together."""
    values = {setting.name: value for setting, value in walk(config)}
    found: Named = {}
    for setting, value in walk(config):
        keys = setting.name.split(".")
        above = [values.get(".".join(keys[:i])) for i in range(len(keys))]
        named = (ENTRY if isinstance(a, dict) else k for k, a in zip(keys, above, strict=True))
        found.setdefault(".".join(named), []).append((setting, value))
    return found


def default(name: str, scales: dict[str, Named]) -> str:
    """The schema's for an entry of a table; else the value of every scale, or the one of all."""
    if ENTRY in name:
        [(setting, _), *_] = next(named[name] for named in scales.values() if name in named)
        return "–" if setting.default is MISSING else f"`{shown(setting.default)}`"
    found: dict[str, list[str]] = {}
    for scale, named in scales.items():
        if name in named:
            found.setdefault(shown(named[name][0][1]), []).append(scale)
    if any(len(value) > LONG for value in found):
        return "each scale's own"
    usual = max(found, key=lambda value: len(found[value]))
    others = [f"{', '.join(found[value])} `{value}`" for value in found if value != usual]
    return "; ".join([*others, f"else `{usual}`" if others else f"`{usual}`"])


def decides(name: str, scales: dict[str, Named], studies: dict[str, Studied]) -> bool:
    """Whether another value makes another run, at any scale: some have no other data set to name,
    or a run that is the same at every ratio.
    """
    return any(
        True
        for scale, study in studies.items()
        for setting, value in scales[scale].get(name, [])[:TRIED]
        for _ in moved_runs(study, setting, value)
    )


def rows(scales: dict[str, Named], studies: dict[str, Studied]) -> Iterator[tuple[str, list[str]]]:
    """The table that a setting is in, and its row."""
    names = dict.fromkeys(name for named in scales.values() for name in named)
    for name in names:
        entries = [pair for named in scales.values() for pair in named.get(name, [])]
        if any(is_table(value) and value for _, value in entries):
            continue
        setting = entries[0][0]
        identity = "yes" if decides(name, scales, studies) else ""
        table, _, key = name.rpartition(".")
        yield table, [f"`{key}`", setting.kind, default(name, scales), identity, setting.meaning]


def page() -> str:
    files = sorted((params_folder() / "scale").glob("*.yaml"))
    files.sort(key=lambda path: path.stem != "demo")  # the default scale comes first
    scales = {path.stem: patterns(load(overrides=[f"scale={path.stem}"])) for path in files}
    studies = {scale: studied(interpolated([f"scale={scale}"])) for scale in IDENTITY}
    tables: dict[str, list[list[str]]] = {}
    for table, row in rows(scales, studies):
        tables.setdefault(table, []).append(row)
    parts = [HEAD]
    for table, found in tables.items():
        parts += [f"## {table or 'At the top'}\n", markdown_table(COLUMNS, found) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    write_text(PAGE, page())
