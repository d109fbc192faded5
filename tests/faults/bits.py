"""One flipped bit in each kind of file that a finished study holds: found, named, and cured."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from tests.commands import Done
from tests.faults.result import Result, contents
from tests.faults.runs import ROOT, World
from tests.faults.study import (
    DVAE,
    NEXT,
    NOTES,
    READS_NOTES,
    STUDY,
    TABLE,
    finished_study,
    run,
)
from tests.loopback import serving
from tools import live_windows

LOCKS = r".*lock|heartbeat\.json"  # of a process that runs: they say nothing afterwards
# Names that differ in these alone are of one kind: digests, labels of evaluations, numbers.
ALIKE = r"(?<=[-/])[0-9a-f]{8,}\b|(?<=/)[\w.]+(?=-[0-9a-f]{8}/)|(?<=/)\w+(?=-\d+\.png)|(?<!\bd)\d+"


def flipped_bits(world: World) -> Iterator[Result]:
    """A row for each place; `survived`: it was mended, or named with a cure that worked."""
    with serving() as server, chdir(finished_study(world, server)):
        shutil.copytree("runs", "as_made")
        for place, words in NEXT.items():
            result = Result("one bit flipped in a finished study", "1", place, "")
            yield _each(result, _one_of_each_kind(place), words)
        notes = Result("one bit flipped in its logs and notes", "1", "runs/", "")
        yield _each(notes, _one_of_each_kind("runs/", notes=True), READS_NOTES)
        yield _unfinished_units()


def _each(result: Result, paths: list[Path], words: list[str]) -> Result:
    table = Path(f"results/smoke/tables/table_{TABLE}.csv")
    expected = table.read_bytes()
    ends: dict[str, int] = {}
    for path in paths:
        shutil.rmtree("runs")  # whose cure is to delete more than the file
        shutil.copytree("as_made", "runs")
        good = path.read_bytes()
        _flip(path)
        result.tried += 1
        done, survived = run(*words), True
        end = _end(done, path, good)
        if words == READS_NOTES:
            end = "left as it is"
        elif end != "made anew":
            survived = _cured(path, good, words, done)
            result.refused += survived
        ends[end] = ends.get(end, 0) + 1
        result.survived += survived
        result.problem = result.problem or ("" if survived else f"{path}: {end}, and not cured")
        table.unlink(missing_ok=True)
        said = run("table", TABLE)
        result.bitwise += said.returncode == 0 and table.read_bytes() == expected
        result.problem = result.problem or said.stderr
    result.ended = "next command: " + ", ".join(f"{k} {n}" for k, n in ends.items())
    return result


def _unfinished_units() -> Result:
    """Of latents, of which one share of two is there: the command for all of them follows."""
    result = Result("one bit flipped in unfinished units", "1", "latents", "made anew")
    folder, words = Path("data/smoke/latents"), ["encode", DVAE]
    expected = contents(folder / DVAE)
    shutil.rmtree(folder)
    assert run(*words, "--share", "1/2").returncode == 0
    shutil.copytree(folder, "as_begun")
    for path in _one_of_each_kind(f"{folder}/."):
        shutil.rmtree(folder)
        shutil.copytree("as_begun", folder)
        _flip(path)
        result.tried += 1
        done = run(*words)
        named = "is damaged: it is computed again" in done.stderr
        result.survived += done.returncode == 0 and named
        result.bitwise += contents(folder / DVAE) == expected
        result.problem = result.problem or ("" if named else f"{path}: {done.stderr}")
    return result


def _one_of_each_kind(place: str, notes: bool = False) -> list[Path]:
    """The first of all files of a kind; those that say nothing, or are notes, only if asked."""
    kinds: dict[str, Path] = {}
    for path in sorted(Path(".").rglob("*")):
        name = path.as_posix()
        is_note = re.fullmatch(NOTES, name) is not None
        silent = re.fullmatch(LOCKS, path.name) or is_note != notes
        if name.startswith(place) and path.is_file() and not silent:
            kinds.setdefault(re.sub(ALIKE, "", name), path)
    return list(kinds.values())


def _flip(path: Path) -> None:
    """As a disk does: neither size nor time changes."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _end(done: Done, path: Path, good: bytes) -> str:
    """What the next command made of the flipped bit: no traceback, whatever it was."""
    assert "Traceback" not in done.stderr, f"{path}: {done.stderr}"
    if done.returncode == 2:
        assert path.name in done.stderr or path.parent.name in done.stderr, done.stderr
        return "refused"
    assert done.returncode == 0, f"{path}: {done.stderr}"
    return "made anew" if _is_same(path, good) else "left to `d2it verify`"


def _is_same(path: Path, good: bytes) -> bool:
    return path.is_file() and path.read_bytes() == good


def _cured(path: Path, good: bytes, words: list[str], done: Done) -> bool:
    """Do what `d2it verify` says, or what the next command did: the file is named, then intact."""
    verify = ["verify"] if path.match("data/weights/*") else ["verify", "--made", "smoke"]
    if "`git " in done.stderr:
        _obey(_sentence(done))
        return run(*verify).returncode == 0
    found = run(*verify)
    if found.returncode == 2 and (path.name in found.stderr or str(path.parent) in found.stderr):
        _obey(_sentence(found))
        return run(*verify).returncode == 0
    if found.returncode or done.returncode == 0:
        return False
    [folder] = re.findall(r"error: (\S+) .*: delete it", _sentence(done))
    shutil.rmtree(folder)
    return run(*words).returncode == 0 and _is_same(path, good)


def _sentence(done: Done) -> str:
    [sentence] = [line for line in done.stderr.splitlines() if "error: " in line]
    return sentence


def _obey(sentence: str) -> None:
    for gone in re.findall(r"delete (\S+?)[.;]?(?: |$)", sentence):
        shutil.rmtree(gone) if Path(gone).is_dir() else Path(gone).unlink()
    for words in map(shlex.split, re.findall(r"`([^`]+)`", sentence)):
        if words[0] == "git":
            subprocess.run(words, check=True)
        elif words[0] == "python":
            assert words[1:3] == ["-m", live_windows.__name__]
            live_windows.main(STUDY)
        elif (done := run(*(word for word in words[1:] if "=" not in word))).returncode:
            # what cannot be fetched here is copied from where it was, with its record
            [copied] = re.findall(r"copy its (\S+)\* here", _sentence(done))
            for good in ROOT.glob(f"{copied}*"):
                shutil.copy2(good, copied.rpartition("/")[0])
