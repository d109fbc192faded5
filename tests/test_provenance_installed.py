"""A commit in provenance is this code's, or none: never that of a repository it lies in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAYS = """
from d2it.runs import provenance
print(provenance.__file__, provenance.commit(), provenance.changed(), sep="\\n")
"""


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *own, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Somebody's project, with a commit of its own."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "notes").write_text("no code of ours")
    git(folder, "add", "notes")
    git(folder, "commit", "--quiet", "--message", "theirs")
    return folder


def put(where: Path) -> Path:
    shutil.copytree(ROOT / "d2it", where / "d2it", ignore=shutil.ignore_patterns("__pycache__"))
    return where


def said(where: Path, **environment: str) -> list[str]:
    """The commit, and whether the code differs from it, of the package in this folder."""
    known = os.environ | {"PYTHONPATH": str(where), "PYTHONSAFEPATH": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-c", SAYS], cwd=ROOT, env=known, capture_output=True, text=True
    )
    file, *told = done.stdout.splitlines()
    assert Path(file).is_relative_to(where), done.stderr
    return told


NONE = ["None", "None"]


def test_installed_below_somebodys_repository(theirs: Path) -> None:
    venv = put(theirs / ".venv/lib/python3/site-packages")
    assert said(venv) == NONE
    git(theirs, "add", "--force", "--all")
    git(theirs, "commit", "--quiet", "--message", "their environment, too")
    assert said(venv) == NONE


def test_installed_beside_their_own_files(theirs: Path) -> None:
    """As `pip install --target .` does."""
    assert said(put(theirs)) == NONE


def test_from_a_hook_of_their_repository(theirs: Path, tmp_path: Path) -> None:
    assert said(put(tmp_path / "lib"), GIT_DIR=str(theirs / ".git")) == NONE


def test_without_git(tmp_path: Path) -> None:
    assert said(put(tmp_path / "lib"), PATH="/nowhere") == NONE


def test_a_checkout(theirs: Path) -> None:
    """Also one that lies in another's."""
    ours = put(theirs / "vendored")
    git(ours, "init", "--quiet")
    git(ours, "add", "--all")
    git(ours, "commit", "--quiet", "--message", "ours")
    assert said(ours) == [git(ours, "rev-parse", "HEAD"), "False"]
    (ours / "d2it/version.py").write_text("# changed\n__version__ = '0'\n")
    assert said(ours) == [git(ours, "rev-parse", "HEAD"), "True"]
