"""The faults: each strikes a real run, reads what it says, repeats the command and compares."""

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from d2it.config import load
from d2it.config.run import run_of
from d2it.files import SEAL, write_sealed
from tests.faults.bits import flipped_bits
from tests.faults.kills import (
    killed_encoding,
    killed_while_accumulating,
    killed_while_writing,
    kills,
)
from tests.faults.result import Result, contents, stopped_midway
from tests.faults.runs import KINDS, Case, World, code

STALL_MINUTES = "0.05"


# Signals that ask


def asked_to_stop(world: World, signum: signal.Signals, processes: int, kind: str) -> Result:
    result = Result(signum.name, str(processes), kind, "finishes its step, saves, ends")
    case = world.case(kind)
    started = case.start(processes)
    assert case.until(case.saved, started), case.log()
    os.kill(started.pid, signum)
    assert code(started) == 128 + signum, case.words()
    saved = case.saved()[-1]
    result.finish(world, case)
    assert f"resumed at {saved}/" in case.words(), case.words()
    return result


# Files


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {"truncated": truncate, "one bit flipped": flip, "missing": Path.unlink}


def damaged_states(world: World, name: str) -> Result:
    damage = DAMAGE[name]
    result = Result(f"a state file {name}", "1", "grain", "warns, goes on from the state before")
    midway = stopped_midway(world, "grain")
    for file in ("model.safetensors", "raw.safetensors", "rest.safetensors", "state.json"):
        case = world.copy(midway)
        assert case.runs is not None
        damage(case.runs / "state" / f"{case.saved()[-1]:012d}" / file)
        before = case.saved()[-2]
        result.finish(world, case)
        said = case.words()
        assert "Falling back" in said and f"resumed at {before}/" in said, said
    return result


def damaged_milestone(world: World) -> Result:
    result = Result(
        "a milestone with one bit flipped", "1", "dit", "warns, goes on from before it, or anew"
    )
    case = world.case("dit")
    started = case.start()
    assert case.until(lambda: case.saved()[-1:] >= [96], started), case.log()
    os.kill(started.pid, signal.SIGTERM)
    code(started)
    assert case.runs is not None
    flip(case.runs / "state" / "milestone-40" / "model.safetensors")
    result.finish(world, case)
    assert "is damaged" in case.words(), case.words()
    return result


def no_sound_state(world: World) -> Result:
    result = Result("all states damaged", "1", "content", "warns, starts from the beginning")
    case = stopped_midway(world, "content")
    assert case.runs is not None
    for images in case.saved():
        flip(case.runs / "state" / f"{images:012d}" / "rest.safetensors")
    result.finish(world, case)
    assert "starts from the beginning" in case.words(), case.words()
    return result


def full_disk(world: World) -> Result:
    result = Result("disk full in a save (`ulimit -f`)", "1", "dvae", "")
    case = stopped_midway(world, "dvae")
    assert case.runs is not None
    before = contents(case.runs / "state" / f"{case.saved()[-1]:012d}")
    assert case.run(limit=len(before["rest.safetensors"]) // 2) == 2, case.words()
    result.told(case, "free some space")
    _only_this_state(case, before)
    result.finish(world, case)
    return result


def nearly_full_disk(world: World) -> Result:
    result = Result("disk nearly full before a save", "1", "dit", "")
    case = stopped_midway(world, "dit")
    assert case.runs is not None
    before = contents(case.runs / "state" / f"{case.saved()[-1]:012d}")
    needed = sum(map(len, before.values()))
    assert case.run(fault="nearly_full_disk", at=needed // 2) == 2, case.words()
    result.told(case, "GB free but .* GB are needed: free some space")
    _only_this_state(case, before)
    result.finish(world, case)
    return result


def _only_this_state(case: Case, before: dict[str, bytes]) -> None:
    assert case.runs is not None
    assert contents(case.runs / "state" / f"{case.saved()[-1]:012d}") == before
    assert not list((case.runs / "state").glob(".*")), "something half-written"


# Data, settings, numbers, processes


def changed_data(world: World) -> Result:
    result = Result("a data set that changed since the run began", "1", "dvae, grain", "")
    for kind, manifest in (
        ("grain", "data/smoke/latents/dvae/manifest.json"),
        ("dvae", "data/smoke/photos/images/manifest.json"),
    ):
        midway = stopped_midway(world, kind)
        case = world.case(kind, own_data=True)
        shutil.copytree(midway.folder / "runs", case.folder / "runs")
        path = case.folder / manifest
        content = path.read_text()
        digest = re.findall(r'"sha256": "(\w{64})"', content)[0]
        changed = json.loads(content.replace(digest, "0" * 64))
        changed.pop(SEAL, None)
        write_sealed(path, changed)
        assert case.run() == 2, case.words()
        result.told(case, "has changed since .* put it back")
        path.write_text(content)
        result.finish(world, case)
    return result


def another_configuration(world: World) -> Result:
    result = Result("a run folder of another configuration", "1", "dit", "")
    case = stopped_midway(world, "dit")
    other = Case(case.folder, "dit", [*case.settings, "training.dit.learning_rate=0.5"])
    mine, name = case.runs, run_of(load(overrides=other.settings), KINDS["dit"]).id
    assert mine is not None
    theirs = mine.with_name(name)
    mine.rename(theirs)
    assert other.run() == 2, other.words()
    result.told(other, "another recipe .*learning_rate differs")
    theirs.rename(mine)
    result.finish(world, case)
    return result


def not_finite(world: World) -> Result:
    """A number in the latents that is none, met in the middle of the training."""
    result = Result("a loss that is not finite", "1", "dit", "")
    case = world.case("dit", own_data=True)
    path = case.folder / "data/smoke/latents/dvae/train-00000-grain1.bin"
    good = path.read_bytes()
    item = 20
    bad = np.frombuffer(good, "<f2").copy().reshape(28, -1)
    bad[item] = np.nan
    path.write_bytes(bad.tobytes())
    assert case.run() == 2, case.words()
    result.told(case, "is not finite in step")
    assert case.runs is not None
    [dump] = case.runs.glob("bad-step-*.json")
    assert f" {item}" in dump.read_text()
    path.write_bytes(good)
    result.finish(world, case)
    return result


def stalled(world: World) -> Result:
    result = Result("a process that stands still (SIGSTOP)", "2", "grain", "")
    case = world.case("grain")
    os.environ["D2IT_STALL_MINUTES"] = STALL_MINUTES
    try:
        started = case.start(processes=2)
        assert case.until(case.saved, started), case.log()
        os.kill(case.workers()[-1], signal.SIGSTOP)
        assert code(started) == 2, case.words()
    finally:
        del os.environ["D2IT_STALL_MINUTES"]
    result.told(case, "has not answered for")
    result.ended = result.ended.replace(STALL_MINUTES, "N")
    result.finish(world, case, processes=2)
    return result


def rank_killed(world: World) -> Result:
    result = Result("SIGKILL to one of two processes", "2", "dit", "")
    case = world.case("dit")
    started = case.start(processes=2)
    assert case.until(case.saved, started), case.log()
    os.kill(case.workers()[-1], signal.SIGKILL)
    assert code(started) == 2, case.words()
    result.told(case, "died .* the same command goes on from the last saved state")
    result.ended = re.sub(r"its log: [^)]+", "its log: …", result.ended)
    result.finish(world, case)
    return result


def matrix(kills_wanted: int, draw: random.Random) -> list[Callable[[World], Iterator[Result]]]:
    """Everything that is tried, in the order of the table."""

    def one(fault: Callable[..., Result], *given: object) -> Callable[[World], Iterator[Result]]:
        return lambda world: iter([fault(world, *given)])

    return [
        lambda world: kills(world, kills_wanted, draw),
        one(killed_while_accumulating),
        one(killed_while_writing),
        one(rank_killed),
        one(stalled),
        one(asked_to_stop, signal.SIGTERM, 1, "content"),
        one(asked_to_stop, signal.SIGINT, 1, "dit"),
        one(asked_to_stop, signal.SIGUSR2, 1, "grain"),
        one(asked_to_stop, signal.SIGTERM, 2, "grain"),
        *(one(damaged_states, name) for name in DAMAGE),
        one(damaged_milestone),
        one(no_sound_state),
        one(full_disk),
        one(nearly_full_disk),
        one(changed_data),
        one(another_configuration),
        one(not_finite),
        one(killed_encoding, max(3, kills_wanted // 20), draw),
        flipped_bits,
    ]
