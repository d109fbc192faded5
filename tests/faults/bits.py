"""One flipped bit in each kind of file that a finished study holds: found, named, and cured."""

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from tests.commands import Done, command
from tests.faults.result import Result
from tests.faults.runs import SETTINGS, World, code

RUN, TABLE = "dit_xl_classes", "2"
STUDY = [*SETTINGS, "sampling.steps=2", "evaluation.n=7", "data.photos.reference=7"]
# Nothing is computed from these: logs and locks, and what is written anew from evaluations.
LEFT_OUT = r"log\.txt|metrics\.jsonl|config\.yaml|.*lock|submitit/.*|table_.*"
NEXT = {  # what reads them next
    "data/smoke/photos/images": ["calibrate", "photos"],
    "data/smoke/photos/thresholds.json": ["encode", "dvae"],
    "data/smoke/photos/reference": ["evaluate", RUN],
    "data/smoke/latents": ["train", RUN],
    "results/smoke/models": ["evaluate", RUN],
    "results/smoke/gallery": ["evaluate", RUN],
    "results/smoke/evaluations": ["table", TABLE],
    "results/smoke/provenance": ["table", TABLE],
    "runs/": ["evaluate", RUN],
}


def flipped_bits(world: World) -> Iterator[Result]:
    """A row for each place; `survived`: verify named the file and a cure, which worked."""
    study = finished_study(world)
    with chdir(study):
        table = Path(f"results/smoke/tables/table_{TABLE}.csv")
        expected = table.read_bytes()
        shutil.copytree("runs", "as_made")
        for place, words in NEXT.items():
            result = Result("one bit flipped in a finished study", "1", place, "")
            mended = {"refused": 0, "made anew": 0, "left to `d2it verify`": 0}
            for path in one_of_each_kind(place):
                shutil.rmtree("runs")  # whose cure is to delete more than the file
                shutil.copytree("as_made", "runs")
                good = path.read_bytes()
                flip(path)
                result.tried += 1
                mended[next_command(words, path, good)] += 1
                result.survived += is_same(path, good) or cured(path)
                table.unlink()
                said = run("table", TABLE)
                result.bitwise += said.returncode == 0 and table.read_bytes() == expected
                result.problem = result.problem or said.stderr
            result.ended = "next command: " + ", ".join(f"{k} {n}" for k, n in mended.items() if n)
            yield result


def finished_study(world: World) -> Path:
    """A DVAE and a DiT with all that was made on the way to a table."""
    case = world.case("dit", own_data=True)
    for name in ("runs", "results"):
        shutil.copytree(world.folder / name, case.folder / name)
    every = [["reference", "photos"], ["encode", "dvae"], ["train", RUN], ["evaluate", RUN]]
    for words in (*every, ["table", TABLE]):
        assert code(case.command([*words, *STUDY])) == 0, case.log()
    return case.folder


def one_of_each_kind(place: str) -> list[Path]:
    """The first of all files whose names differ in numbers and digests alone."""
    kinds: dict[str, Path] = {}
    for path in sorted(Path(".").rglob("*")):
        name = path.as_posix()
        if name.startswith(place) and path.is_file() and not re.fullmatch(LEFT_OUT, path.name):
            kinds.setdefault(re.sub(r"-[0-9a-f]{8}\b|\d+", "", name), path)
    return list(kinds.values())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def run(*words: str) -> Done:
    return command(*words, *STUDY)


def next_command(words: list[str], path: Path, good: bytes) -> str:
    """What it made of the flipped bit: no traceback, whatever it was."""
    done = run(*words)
    assert done.returncode in (0, 2), f"{path}: {done.stderr}"
    if done.returncode == 2:
        assert path.name in done.stderr or path.parent.name in done.stderr, done.stderr
        return "refused"
    return "made anew" if is_same(path, good) else "left to `d2it verify`"


def is_same(path: Path, good: bytes) -> bool:
    return path.is_file() and path.read_bytes() == good


def cured(path: Path) -> bool:
    """Do what `d2it verify --made` says: the file is named, and then all is intact."""
    found = command("verify", "--made", "smoke")
    if found.returncode != 2 or not (path.name in found.stderr or str(path.parent) in found.stderr):
        return False
    [sentence] = [line for line in found.stderr.splitlines() if "error: " in line]
    for remedy in sentence.partition("made: ")[2].rstrip(".").split("; "):
        gone, _, again = remedy.removeprefix("delete ").partition(" and run ")
        shutil.rmtree(gone) if Path(gone).is_dir() else Path(gone).unlink()
        if again:
            _, verb, name, _ = shlex.split(again.strip("`"))  # the settings are this study's
            assert run(verb, name).returncode == 0
    return command("verify", "--made", "smoke").returncode == 0
