"""Every command that a document shows: its options, settings and targets exist, and something runs
its like.

Run here in full they would train for months. So each is parsed by the real parser, composed with
the real params/, and asked for elsewhere: of `d2it`, every option stands in a test of its verb;
Snakemake's targets are those that CI and tests/test_workflow.py make; the rest stands in .ci/run.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from d2it import cli
from d2it.config.load import load
from d2it.config.run import run_of, runs_of
from d2it.config.study import ITEMS
from d2it.images.emoji import emoji_groups
from d2it.snakefile import TARGETS, hydra_overrides
from tests.composed import composed

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.remove(ROOT / "docs/tutorial.md")  # which tests/test_tutorial.py runs
TESTS = [path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))]
CI = (ROOT / ".ci/run").read_text()
SHELL = {"git", "cd", "source", "mkdir", "ln", "unset", "squeue", "tail", "cat"}
# What .ci/run does not name: where it is run or, at last, said to be untried.
ELSEWHERE = {
    "export D2IT_LAUNCHER": ("tests/test_launch.py", "test_launchers_in_the_documents_can_train"),
    "make demo": (".ci/run", "snakemake --cores 2 all --config"),
    "make slurm-up": ("tests/slurm/conftest.py", "Cluster"),
    "make slurm-down": ("tests/slurm/conftest.py", "Cluster"),
    ".ci/run": (".ci/run", "part "),
    "docker": ("docs/cluster.md", "No test builds the image"),
    "apptainer": ("docs/cluster.md", "Apptainer, GPUs and a real cluster have not been tried"),
}


def commands() -> list[list[str]]:
    found = {}
    for page in PAGES:
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.M | re.S):
            block = re.sub(r"=\$\([^)]*\)", "=" + "0" * 64, block.replace("\\\n", " "))
            for line in re.sub(r"\$\([^)]*\)", "", block).splitlines():
                for part in " ".join(map(shlex.quote, shlex.split(line, comments=True))).split(
                    " '&&' "
                ):
                    found[part] = unwrapped(shlex.split(part))
    return [words for words in found.values() if words and words[0] not in SHELL]


def unwrapped(words: list[str]) -> list[str]:
    """What a job runs, without variables before it."""
    if words[:1] == ["srun"]:
        return words[words.index("d2it") :]
    if words[:1] == ["sbatch"]:
        return shlex.split(re.sub(r"^unset [^;]*; ", "", words[words.index("--wrap") + 1]))
    return words[1:] if words and re.match(r"[A-Z]\w+=", words[0]) else words


def settings_of(words: list[str]) -> list[str]:
    scale = [f"scale={words[words.index('--scale') + 1]}"] if "--scale" in words else []
    return [*scale, *(word for word in words if re.match(r"\+?[a-z][\w.@]*=", word))]


COMMANDS = commands()


def of(program: str) -> pytest.MarkDecorator:
    chosen = [words for words in COMMANDS if words[0] == program]
    assert chosen
    return pytest.mark.parametrize("words", chosen, ids=" ".join)


@of("d2it")
def test_of_d2it(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    verb, parsed = words[1], []
    module = importlib.import_module(f"d2it.commands.{verb}")
    monkeypatch.setattr(module, "main", parsed.append)
    assert cli.main(words[1:]) == 0 and parsed
    config = composed(*settings_of(words))
    name = next((word for word in words[2:3] if not re.search(r"^-|=", word)), None)
    if verb in ("train", "encode", "evaluate", "export") and name:
        assert run_of(config, name).kind
    if verb in ("prepare", "calibrate", "reference"):
        assert name in config.data
    if "--class" in words:  # the packaged weights, and the runs of this name, draw emoji
        assert words[words.index("--class") + 1] in emoji_groups()
    for option in (word for word in words if word.startswith("--")):
        assert any(f'"{verb}"' in test and f'"{option}' in test for test in TESTS), option


@of("snakemake")
def test_of_snakemake(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    at = words.index("--config") if "--config" in words else len(words)
    settings = dict(word.split("=", 1) for word in words[at + 1 :])
    settings.pop("launcher", None)  # how it is run, which tests/test_launch.py knows
    config = load(overrides=hydra_overrides({k: yaml.safe_load(v) for k, v in settings.items()}))
    valued = {
        words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--profile", "--report")
    }
    targets = {word for word in words[1:at] if not word.startswith("-")} - valued
    assert targets <= {*TARGETS, *ITEMS, *runs_of(config), "help"}


def test_all_others_are_run_somewhere() -> None:
    others = [words for words in COMMANDS if words[0] not in ("d2it", "snakemake")]
    lacking = []
    for words in others:
        line = " ".join(words)
        named = [place for start, place in ELSEWHERE.items() if line.startswith(start)]
        for path, evidence in named:
            assert evidence in (ROOT / path).read_text(), line
        begins = " ".join(words[: 3 if words[:2] == ["dvc", "exp"] else 2])
        if not named and begins not in CI:
            lacking.append(line)
    assert len(others) > 20 and not lacking
