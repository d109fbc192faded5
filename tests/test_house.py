"""Rules of the house that a reader cannot see in one file."""

import ast
import importlib.util
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from d2it.cli import VERBS

ROOT = Path(__file__).parents[1]
SCALES = {path.stem for path in (ROOT / "params" / "scale").glob("*.yaml")}
# in pieces, so that this file does not hold what it looks for
REGISTRIES = re.compile("|".join(["py" + "pi", "pythonhos" + "ted", r"registry\.npm" + "js"]), re.I)
PIXELS = re.compile(r"[\w+/=]{60,}(\" .*)?")  # a line of base64: a picture within an SVG
MACHINE = re.compile(
    r"(?<![\w.~-])/(?:" + "|".join(["ho" + "me", "ro" + "ot", "Us" + "ers"]) + r")/\w"
)


def tracked() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    texts = {}
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[name] = content.decode(errors="replace")
    return texts


def test_the_lock_names_no_address_and_hashes_everything():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "@ " not in lock and not REGISTRIES.search(lock)
    packages = re.split(r"\n(?=\S)", lock.strip())
    assert len(packages) > 100
    for package in packages:
        assert re.match(r"[\w.\[\],-]+==\S+", package) and "--hash=sha256:" in package, package
    assert "\ntorch==2.13.0 " in lock and "\ntorchvision==0.28.0 " in lock


def test_no_tracked_text_names_a_registry_or_a_path_of_one_machine():
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in tracked().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if not PIXELS.fullmatch(line)
        if REGISTRIES.search(line) or MACHINE.search(line)
    ]
    assert not found, "\n".join(found)


def scales_asked_for(source: str) -> list[int]:
    """Lines that compare something with a scale's name or look one up by it."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "get"):
            parts = list(node.args)
        elif isinstance(node, ast.Dict) and len(node.keys) > 1:
            parts = [key for key in node.keys if key is not None]
        values = {n.value for part in parts for n in ast.walk(part) if isinstance(n, ast.Constant)}
        if values & SCALES:
            lines.append(getattr(node, "lineno", 0))
    return lines


@pytest.mark.parametrize(
    "line",
    [
        'if name == "demo": pass',
        'if name in ("smoke", "mini"): pass',
        'steps = {"demo": 10, "paper": 400}[name]',
        'match name:\n    case "paper": pass',
        'if name.startswith("demo"): pass',
    ],
)
def test_asking_for_a_scale_is_noticed(line):
    assert scales_asked_for(line)


def test_no_code_asks_for_a_scale_by_name():
    assert SCALES
    for path in sorted((ROOT / "d2it").rglob("*.py")):
        assert not scales_asked_for(path.read_text()), path.relative_to(ROOT)
    names = "|".join(SCALES)
    asked = re.compile(rf"""(?:[=!]=|\bin\b)\s*[\[({{]?\s*["'](?:{names})["']""")
    for path in [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))]:
        assert not asked.search(path.read_text()), path.relative_to(ROOT)


def help_of(verb: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "d2it", verb, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_verb_explains_itself_without_torch():
    for verb in VERBS:
        assert importlib.util.find_spec(f"d2it.commands.{verb}"), verb
    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(VERBS, pool.map(help_of, VERBS), strict=True))
    for verb, answer in answers.items():
        assert answer.returncode == 0, answer.stderr[-500:]
        assert re.search(rf"Examples?:\s+d2it\s+{verb}\b", answer.stdout), f"{verb}: no example"
        heavy = re.findall(
            r"\| +(torch|torchvision|hydra|pandas|scipy|seaborn)$", answer.stderr, re.M
        )
        assert not heavy, f"d2it {verb} --help imports {heavy}"


def test_a_reader_that_stops_early_is_no_error():
    pipe = f"{sys.executable} -m d2it fetch | true; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_the_command_lists_every_verb_in_order():
    answer = subprocess.run(
        [sys.executable, "-m", "d2it", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    found = re.findall(r"^    (\w+)(?: {2,}|$)", answer.stdout, re.M)
    assert answer.returncode == 0 and found == list(VERBS)
