"""The floors of d2it/, from the ground up: a room knows its own floor's packages no more than the
ones above, only those below.
"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "d2it"

# The map a newcomer reads: each line is a floor, and rests on those before it.
FLOORS = [
    ["version", "errors", "clock"],
    ["files", "text", "shares"],
    ["config"],  # settings: schema, checks, recipes, paths; what the paper's tables want
    ["machine"],  # devices, GPUs, threads and processes
    ["sources", "units"],  # downloads and their checksums; files that several processes compute
    ["images"],  # archives to packed pixels
    ["grains"],  # section 3.1: entropy, thresholds, maps
    ["diffusion"],  # Eq 11, schedules, samplers
    ["models"],  # the networks, and those that measure
    ["cost", "latents"],  # MACs, memory, prices; codes cached by a DVAE
    ["runs"],  # a run's folder: plan, lease, state, publishing
    ["training", "sampling"],
    ["evaluation", "app"],
    ["report", "jobs"],  # tables, figures, claims; where a stage is computed
    ["commands", "snakefile"],  # one verb a file; what the rules ask
    ["cli", "__init__"],  # `d2it <verb>`; `d2it.load`
    ["__main__"],
]
FLOOR = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str:
    """The package, or the single module, that a dotted name lies in."""
    _, _, below = module.partition(".")
    return below.partition(".")[0] or "__init__"


def imports(tree: ast.AST) -> set[str]:
    """The modules of d2it that a file imports anywhere, also where only a type checker looks."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "d2it":
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if is_module(name) else str(node.module) for name in inside}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "d2it"}
    return found


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def modules() -> dict[str, set[str]]:
    """Every module of d2it, with those that it imports."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(["d2it", *path.relative_to(ROOT).with_suffix("").parts])
        found[name.removesuffix(".__init__")] = imports(ast.parse(path.read_text()))
    return found


def climbs(module: str, imported: str) -> bool:
    """Whether an import leads to a room that is not below its own."""
    here, there = room_of(module), room_of(imported)
    return here != there and FLOOR[there] >= FLOOR[here]


def test_every_room_has_its_floor():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__", "weights"} == set(FLOOR)  # weights/ holds no code


def test_no_room_knows_what_is_above_it():
    found = [
        f"{module} imports {imported}"
        for module, known in modules().items()
        for imported in known
        if climbs(module, imported)
    ]
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    "line",
    [
        "from d2it.training.loop import train",
        "from d2it.training import loop",
        "import d2it.training.loop",
        "def f():\n    from d2it.training.loop import train",
    ],
)
def test_an_import_that_climbs_is_noticed(line):
    [imported] = imports(ast.parse(line))
    assert climbs("d2it.models.dvae", imported)


def test_a_package_is_entered_by_its_doors():
    """`__all__` of a package names the modules that other rooms may import, and no others."""
    entered: dict[str, set[str]] = {}
    for module, known in modules().items():
        for imported in known:
            if room_of(module) != room_of(imported) and imported.count(".") > 1:
                _, room, name = imported.split(".")
                entered.setdefault(room, set()).add(name)
    for room, names in entered.items():
        doors = getattr(importlib.import_module(f"d2it.{room}"), "__all__", None)
        assert room == "config" or set(doors) == names, room


def test_no_two_modules_import_each_other():
    known = modules()
    ends: set[str] = set()
    while ready := {name for name, inside in known.items() if inside & known.keys() <= ends} - ends:
        ends |= ready
    assert not known.keys() - ends, sorted(known.keys() - ends)
