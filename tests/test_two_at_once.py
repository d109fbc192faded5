"""The same command twice at once, in processes of their own: one computes, the other says so or
waits for it; nothing is computed twice, and nothing half-written stays.
"""

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from d2it.config import Config, load, paths
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import write_json
from d2it.runs import lease
from d2it.runs.lease import making
from d2it.shares import Share
from tests.commands import command
from tests.forked import Forked
from tests.tiny_world import OVERRIDES, build_world, enter

RUN = "dit_b"
ELSEWHERE = {"host": "another", "pid": 7, "time": 0.0}


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch, block=16)  # as other processes
        build_world([RUN])
        assert command("evaluate", RUN, *OVERRIDES).returncode == 0
        yield load(overrides=OVERRIDES)


def makers(config: Config) -> dict[tuple[str, ...], Path]:
    """Commands, and what each of them makes."""
    return {
        ("prepare", "photos"): paths.images(config, "photos"),
        ("calibrate", "photos"): paths.thresholds(config, "photos"),
        ("encode", "dvae"): paths.latents(config, "dvae"),
        ("reference", "photos"): paths.reference(config, "photos"),
        ("evaluate", RUN): paths.evaluation(config, RUN),
        ("sample", "--run", RUN, "--seeds", "0-3"): Path("samples", RUN),
    }


def contents(place: Path) -> dict[str, bytes]:
    files = place.rglob("*") if place.is_dir() else [place]
    return {str(p.relative_to(place)): p.read_bytes() for p in files if p.is_file()}


def leases() -> list[Path]:
    return list(Path("runs/.leases").glob("*"))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


@pytest.mark.parametrize("verb", ["prepare", "encode", "evaluate"])
def test_the_second_waits_and_finds_it_made(verb: str, config: Config) -> None:
    """With real processes, from the moment that the first is at it."""
    [(words, place)] = [entry for entry in makers(config).items() if entry[0][0] == verb]
    expected = contents(place)
    remove(place)
    first = Forked("d2it", *words, *OVERRIDES)
    wait_for(leases)
    second = Forked("d2it", *words, "--wait", *OVERRIDES)
    done = [process.end() for process in (first, second)]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert contents(place) == expected and not leases()
    remembered = verb == "evaluate"  # in the run folder
    assert ("is ready" if remembered else "is up to date") in done[1].stdout


def test_one_that_was_killed_is_taken_over(config: Config) -> None:
    place = paths.latents(config, "dvae")
    expected = contents(place)
    remove(place)
    first = Forked("d2it", "encode", "dvae", *OVERRIDES)
    wait_for(lambda: list(place.parent.glob(".dvae.*.parts")))
    waiting = Forked("d2it", "encode", "dvae", "--wait", *OVERRIDES)
    os.kill(first.pid, signal.SIGKILL)
    assert first.end().returncode == -signal.SIGKILL
    assert waiting.end().returncode == 0
    assert contents(place) == expected and not leases()


def test_who_may_not_wait_gets_one_sentence(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that computes into a place."""
    monkeypatch.setattr(lease, "PATIENCE", 0)
    for words, place in makers(config).items():
        held = run_of(config, RUN).folder / "evaluations" if words[0] == "evaluate" else place
        with making(held, wait=False):
            done = command(*words, *OVERRIDES)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f"{held} is being made by process {os.getpid()} on " in done.stderr
        assert "`--wait` does" in done.stderr


def test_shares_and_the_whole_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares are computed side by side, each by one process, none while all are put together."""
    monkeypatch.setattr(lease, "PATIENCE", 0)
    place = tmp_path / "latents"
    with making(place, False, Share(1, 2)), making(place, False, Share(2, 2)):
        for share in (None, Share(2, 2)):
            with (
                pytest.raises(UserError, match="hare .*is being made"),
                making(place, False, share),
            ):
                pass
    with making(place, False), pytest.raises(UserError), making(place, False, Share(1, 2)):
        pass
    assert not leases()


def test_shares_that_start_together_let_each_other_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they all pass is shared: with no patience at all, none of them refuses another."""
    monkeypatch.setattr(lease, "PATIENCE", 0)
    place, count = tmp_path / "latents", 64
    ready = threading.Barrier(count, timeout=60)

    def compute(part: int) -> None:
        ready.wait()
        with making(place, False, Share(part, count)):
            ready.wait()  # while all hold theirs

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(compute, range(1, count + 1)))
    with making(place, False):
        pass
    assert not leases()


def test_shares_that_died_elsewhere_are_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one after another; and one that still beats is not taken for dead."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.4)
    place = tmp_path / "latents"
    with making(place, False):
        [whole] = leases()
    dead = [whole.with_name(f"{whole.name}-{part}-of-20") for part in range(1, 21)]
    for folder in dead:
        write_json(folder / lease.HEARTBEATS, ELSEWHERE | {"beat": 3})
    begun = time.monotonic()
    with making(place, False):
        pass
    assert time.monotonic() - begun < 2 * lease.SILENCE * lease.HEARTBEAT and not leases()
    beats, ended = itertools.count(), threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            write_json(dead[3] / lease.HEARTBEATS, ELSEWHERE | {"beat": next(beats)})

    write_json(dead[3] / lease.HEARTBEATS, ELSEWHERE | {"beat": next(beats)})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(beat)
        with pytest.raises(UserError, match="A share of .* by process 7 on another:"):
            making(place, False).__enter__()
        ended.set()


def test_a_lock_that_was_taken_away_lets_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder took it away at its end, after we had opened it: others would lock a new one."""
    ended: list[Path] = []

    def end(folders: Sequence[Path], wait: bool, busy: str) -> None:
        if not ended:
            ended.extend(folders)
            (folders[0] / lease.LOCK).unlink()

    monkeypatch.setattr(lease, "_await_silence", end)
    with making(tmp_path / "latents", False):
        assert [path.name for path in ended[0].iterdir() if path.name == lease.LOCK]
