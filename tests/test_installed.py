"""`pip install .`: what needs no checkout works without one."""

import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml

from tests.installed import ROOT, install, run


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("installed"))


def test_the_study_travels_with_the_package(target: Path) -> None:
    """All of params/ and the tables of data/, to the byte, and nothing that was made from them."""
    patterns = ("params/**/*.yaml", "data/*.csv", "data/*SUMS", "data/published/[!R]*")
    ours = {path.relative_to(ROOT): path for pattern in patterns for path in ROOT.glob(pattern)}
    shipped = target / "d2it" / "shipped"
    theirs = {path.relative_to(shipped): path for path in shipped.rglob("*") if path.is_file()}
    assert theirs.keys() == ours.keys()
    assert all(theirs[name].read_bytes() == path.read_bytes() for name, path in ours.items())
    weights = {path.relative_to(ROOT) for path in (ROOT / "d2it" / "weights").glob("*/*")}
    assert {path.relative_to(target) for path in (target / "d2it/weights").glob("*/*")} == weights
    [info] = target.glob("d2it-*.dist-info")
    assert Distribution.at(info).metadata["Requires-Python"] == "<3.14,>=3.11"


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_setup_refuses_another_python(version: str, tmp_path: Path) -> None:
    """A real one, which takes itself for that version."""
    python, numbers = tmp_path / "python", version.replace(".", ", ")
    claim = f"import sys; sys.version_info = ({numbers}, 0)"
    python.write_text(f"""#!/bin/sh
[ "$1" = -c ] || {{ echo Python {version}.0; exit; }}
exec {sys.executable} -c '{claim}; exec(sys.argv[1])' "$2"
""")
    python.chmod(0o755)
    setup = ["sh", str(ROOT / "tools/setup.sh"), str(python)]
    done = subprocess.run(setup, cwd=tmp_path, capture_output=True, text=True)
    sentence = f"make setup: Python {version}.0 does not do: name Python 3.11 to 3.13"
    assert done.returncode == 2 and done.stderr.startswith(sentence)
    assert list(tmp_path.iterdir()) == [python]


@pytest.mark.parametrize("words", ["--help", "models", "fetch", "study scale=paper"])
def test_commands_that_stand_alone(target: Path, tmp_path: Path, words: str) -> None:
    done = run(target, *words.split(), cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_settings_are_composed_without_a_checkout(target: Path, tmp_path: Path, params) -> None:
    assert run(target, "config", "--write", "params.yaml", cwd=tmp_path).returncode == 0
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == params
