"""The same command twice at once, in processes of their own: one computes, the other says so or
waits for it; nothing is computed twice, and nothing half-written stays.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from d2it.config import Config, load, paths
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.runs import lease
from d2it.runs.lease import making
from d2it.shares import Share
from tests.commands import command
from tests.forked import Forked
from tests.tiny_world import OVERRIDES, build_world, enter

RUN = "dit_b"


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


def test_a_lock_that_was_taken_away_lets_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder took it away at its end, after we had opened it: others would lock a new one."""
    ended: list[Path] = []

    def end(folder: Path, wait: bool, busy: str) -> None:
        if not ended:
            ended.append(folder)
            (folder / lease.LOCK).unlink()

    monkeypatch.setattr(lease, "_await_silence", end)
    with making(tmp_path / "latents", False):
        assert [path.name for path in ended[0].iterdir() if path.name == lease.LOCK]
