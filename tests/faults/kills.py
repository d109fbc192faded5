"""SIGKILL, at any time."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.result import Result, contents
from tests.faults.runs import KINDS, SETTINGS, Case, Started, World, code, ended


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
