"""The faults: each strikes a real run, reads what it says, repeats the command and compares."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2it.config import load
from d2it.config.run import run_of
from tests.faults.runs import KINDS, SETTINGS, Case, Started, World, code, ended

STALL_MINUTES = "0.05"


@dataclass
class Result:
    """One row of the table."""

    fault: str
    processes: str
    runs: str
    ended: str  # how the struck command ended, in words
    tried: int = 0
    survived: int = 0
    bitwise: int = 0
    problem: str = ""

    def finish(self, world: World, case: Case, processes: int = 1, faults: int = 1) -> None:
        """The same command again: it must end well, with the weights of an undisturbed run."""
        self.tried += faults
        try:
            if ended_as := case.run(processes):
                self.problem = f"{ended_as}: {case.words()[-2000:]}"
                return
            self.survived += faults
            differing = world.differing(case)
            self.bitwise += 0 if differing else faults
            self.problem = ", ".join(differing) and f"differing: {differing}"
        except AssertionError as error:
            self.problem = str(error)


def sentence(case: Case, pattern: str) -> str:
    """What the last command said, which must be one sentence that matches."""
    said = [line for line in case.words().splitlines() if line.startswith("d2it: error: ")]
    assert len(said) == 1 and re.search(pattern, said[0]), case.words()[-2000:]
    return "“" + re.sub(r"\b(step|Process)([ -])\d+", r"\1\2N", said[0][13:]) + "”"


def stopped_midway(world: World, kind: str) -> Case:
    """A run with a few saved states, not finished."""
    case = world.case(kind)
    started = case.start()
    assert case.until(lambda: len(case.saved()) >= 2, started), case.log()
    os.kill(started.pid, signal.SIGTERM)
    assert code(started) == 128 + signal.SIGTERM, case.log()
    return case


# SIGKILL, at any time


def kills(world: World, number: int, draw: random.Random) -> Iterator[Result]:
    """`number` kills over the four kinds, about three quarters of them to one process."""
    pairs = [(kind, processes) for processes in (1, 2) for kind in KINDS]
    double = max(1, number // 16)
    shares = {pair: double if pair[1] == 2 else (number - 4 * double) // 4 for pair in pairs}
    shares["grain", 1] += number - sum(shares.values())
    for (kind, processes), share in shares.items():
        if share:
            yield _killed_again_and_again(world, kind, processes, share, draw)


def _killed_again_and_again(
    world: World, kind: str, processes: int, number: int, draw: random.Random
) -> Result:
    what = "SIGKILL" if processes == 1 else "SIGKILL to the command, one process, or all at once"
    result = Result(what, str(processes), kind, "")
    hits = {"starting": 0, "training": 0, "saving": 0}
    done, since, case = 0, 0, world.case(kind)
    while done < number:
        started = case.start(processes)
        when = draw.choices(["starting", "training", "saving"], [1, 5, 2])[0]
        if not _await_moment(world, case, started, when, draw):
            assert code(started) == 0, case.words()  # finished first: a new run
            result.finish(world, case, faults=since)
            since, case = 0, world.case(kind)
            continue
        _kill(case, started, draw)
        hits[when if case.starts() > case.seen else "starting"] += 1
        done, since = done + 1, since + 1
    result.finish(world, case, draw.choice([1, processes]), faults=since)
    result.ended = "killed while " + ", ".join(f"{k} {n}" for k, n in hits.items() if n)
    return result


def _await_moment(
    world: World, case: Case, started: Started, when: str, draw: random.Random
) -> bool:
    """Wait for the time to strike; False if the run ended before."""
    starting, training = world.seconds[case.kind]
    if when == "starting":
        time.sleep(draw.uniform(0, starting))
        return not ended(started)
    if not case.begins(started):
        return False
    if when == "saving":
        time.sleep(draw.uniform(0, training / 2))
        return case.until(case.saving, started)
    time.sleep(draw.uniform(0, training))
    return not ended(started)


def _kill(case: Case, started: Started, draw: random.Random) -> None:
    workers = case.workers()
    victim = draw.choice(["all", "command", "worker"]) if workers else "all"
    if victim == "all":
        os.killpg(started.pid, signal.SIGKILL)
    elif victim == "command":
        os.kill(started.pid, signal.SIGKILL)
    else:
        try:
            os.kill(draw.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            os.killpg(started.pid, signal.SIGKILL)
    code(started)


def killed_while_accumulating(world: World) -> Result:
    result = Result("SIGKILL between two micro-batches of a step", "1", "content, dit", "killed")
    for kind in ("content", "dit"):
        case = world.case(kind)
        assert case.run(fault="between_micro_batches", at=100) == -signal.SIGKILL, case.log()
        result.finish(world, case)
    return result


def killed_while_writing(world: World) -> Result:
    """The state that was being written is lost, and what was trained meanwhile; no more."""
    result = Result("SIGKILL while a state is written and steps go on", "1", "content, dit", "")
    for kind in ("content", "dit"):
        case = world.case(kind)
        died = case.run(fault="two_steps_into_a_write", at=64)
        assert died == -signal.SIGKILL and case.saving() and case.saved()[-1] == 48, case.log()
        result.finish(world, case)
        assert "resumed at 48/" in case.words(), case.words()
    result.ended = "killed; the same command goes on from the state before"
    return result


def killed_encoding(world: World, number: int, draw: random.Random) -> Result:
    result = Result("SIGKILL to `d2it encode`", "1", "latents", "killed")
    case = world.case("dvae", own_data=True)
    shutil.copytree(world.folder / "results", case.folder / "results")
    latents = Path("data/smoke/latents/dvae")
    expected = contents(world.folder / latents)
    while result.tried < number:
        shutil.rmtree(case.folder / latents)
        started = case.command(["encode", "dvae", *SETTINGS])
        case.until(lambda: any((case.folder / latents).parent.glob(".dvae.*.parts")), started)
        time.sleep(draw.uniform(0, 0.2))
        if ended(started):
            continue
        os.kill(started.pid, signal.SIGKILL)
        code(started)
        result.tried += 1
        if code(case.command(["encode", "dvae", *SETTINGS])) == 0:
            result.survived += 1
            result.bitwise += contents(case.folder / latents) == expected
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    result.ended = sentence(case, "free some space")
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
    result.ended = sentence(case, "GB free but .* GB are needed: free some space")
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
        path.write_text(content.replace(digest, "0" * 64))
        assert case.run() == 2, case.words()
        result.ended = sentence(case, "has changed since .* put it back")
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
    result.ended = sentence(other, "another recipe .*learning_rate differs")
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
    result.ended = sentence(case, "is not finite in step")
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
    result.ended = sentence(case, "has not answered for").replace(STALL_MINUTES, "N")
    result.finish(world, case, processes=2)
    return result


def rank_killed(world: World) -> Result:
    result = Result("SIGKILL to one of two processes", "2", "dit", "")
    case = world.case("dit")
    started = case.start(processes=2)
    assert case.until(case.saved, started), case.log()
    os.kill(case.workers()[-1], signal.SIGKILL)
    assert code(started) == 2, case.words()
    said = sentence(case, "died .* the same command goes on from the last saved state")
    result.ended = re.sub(r"its log: [^)]+", "its log: …", said)
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
    ]
