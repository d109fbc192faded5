"""Commands started oddly: without streams, or with words and files that nest without end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from d2it.errors import UserError
from d2it.files import write_text
from d2it.jobs.launcher import load_launcher
from tests.commands import command

DEEP = "[" * 2000
ROOT = Path(__file__).parents[1]
D2IT = f"{sys.executable} -m d2it"


def shell(words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["sh", "-c", words], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """What is said is lost, and stands in none of the files that are written meanwhile."""
    done = shell(f"{D2IT} config scale=smoke --write a.yaml {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    plain = command("config", "scale=smoke", cwd=tmp_path).stdout
    assert (tmp_path / "a.yaml").read_text() == plain
    done = shell(f"{D2IT} config scale=smoke {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout in ("", plain)
    done = shell(f"{D2IT} config scale=nope {closed}", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "models", "study scale=paper", "table --help"])
@pytest.mark.parametrize("knows", ["PYTHONIOENCODING=ascii", "PYTHONUTF8=0 LC_ALL=POSIX"])
def test_a_terminal_of_few_letters(words: str, knows: str, tmp_path: Path) -> None:
    done = shell(f"{knows} {D2IT} {words}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.isascii()


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a locale in Latin-1, made here: few machines have one. Where none can be made,
    it is one that nobody has, which is C.
    """
    folder = tmp_path_factory.mktemp("locales")
    if localedef := shutil.which("localedef"):
        subprocess.run([localedef, "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US.ISO-8859-1"])
    return folder


@pytest.mark.parametrize("knows", ["LC_ALL=C PYTHONIOENCODING=ascii", "LC_ALL=en_US.ISO-8859-1"])
def test_tables_are_the_same_bytes_in_every_locale(knows: str, latin: Path, tmp_path: Path) -> None:
    """Those of the repository, which hold letters beyond ASCII."""
    there, here = ROOT / "results/mini_cpu", tmp_path / "results/mini_cpu"
    for name in ("evaluations", "provenance"):
        shutil.copytree(there / name, here / name)
    shutil.copy(there / "windows.json", here)
    few = f"{knows} LOCPATH={latin} PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
    done = shell(f"{few} {D2IT} table 3 scale=mini_cpu > printed", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    written = sorted((here / "tables").iterdir())
    assert [path.suffix for path in written] == [".csv", ".md", ".tex"]
    for path in written:
        assert path.read_bytes() == (there / "tables" / path.name).read_bytes()
    assert not written[1].read_bytes().isascii()


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        ("local 'x", "is no list of words (No closing quotation)"),
        ("local resources.extra=" + DEEP, "nested too deeply"),
        ("local resources.extra=2026-99-99", "is not YAML"),
        ("''", "There is no launcher ''"),
        ("nowhere.yaml", "There is no launcher 'nowhere.yaml'"),
    ],
)
def test_a_launcher_that_is_none(launcher: str, sentence: str, tmp_path: Path) -> None:
    done = command("train", "dvae", "scale=smoke", cwd=tmp_path, D2IT_LAUNCHER=launcher)
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert done.stderr.startswith("d2it: error: ") and done.stderr.count("\n") == 1


def test_blanks_are_the_usual_launcher() -> None:
    assert load_launcher("  ") == load_launcher("local")


@pytest.mark.parametrize(
    "content", [DEEP, "{a: " * 2000, b"\xff\xfe", "a: &a [*a]", "a: 2026-99-99", "a: \0", ""]
)
def test_composed_settings_that_are_none(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = command("study", "--params", "params.yaml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("d2it: error: ") and done.stderr.count("\n") == 1
    (tmp_path / "mine.yaml").write_bytes(path.read_bytes())
    with pytest.raises(UserError):
        load_launcher(str(tmp_path / "mine.yaml"))


def test_an_override_that_nests_without_end(tmp_path: Path) -> None:
    done = command("study", f"ratio={DEEP}", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("d2it: error: ratio is "), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", ["table 3", "figure 5", "status", "metrics", "claims", "page", "keep dvae"]
)
def test_another_folder_than_the_studys(words: str, tmp_path: Path) -> None:
    """It would write tables without numbers."""
    done = command(*words.split(), "scale=smoke", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"d2it: error: {tmp_path} holds nothing")
    assert f"run this command in {ROOT}, or" in done.stderr and not list(tmp_path.iterdir())


def test_a_study_is_where_it_began(tmp_path: Path, params: dict) -> None:
    write_text(tmp_path / "params.yaml", yaml.safe_dump(params))
    done = command("table", "3", "--params", "params.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert command("status", cwd=tmp_path).returncode == 0  # now something of the scale is here
