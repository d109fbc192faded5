"""Two Snakemakes of two checkouts that share data/weights: nothing is fetched twice, or lost."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from d2it.runs.lease import PATIENCE
from tests.forked import Forked
from tests.listed import COLUMNS, CONTENT, sha256
from tests.listed import server as server
from tests.test_workflow import ROOT, Checkout, checkout_at

FIRST, SECOND = "data/weights/inception.pt", "data/weights/adm_imagenet256.npz"


@pytest.fixture
def checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server) -> list[Checkout]:
    """Their tables name files of the server."""
    for name in ("D2IT_WEIGHTS", "D2IT_RUNS", "D2IT_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with open(ROOT / "data" / "sources.csv", newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for path in (FIRST, SECOND):
        name = f"/{Path(path).name}"
        server.files[name] = CONTENT
        changed = {"url": server.url(name), "mirrors": "", "bytes": len(CONTENT)}
        rows[Path(path).stem] |= changed | {"sha256": sha256(CONTENT)}
    shared, found = tmp_path / "weights", []
    shared.mkdir()
    for name in ("one", "two"):
        found.append(checkout_at(tmp_path / name))
        (found[-1].root / "data" / "weights").symlink_to(shared)
        with open(found[-1].root / "data" / "sources.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows.values())
    return found


def start(checkout: Checkout, *targets: str) -> Forked:
    return Forked("snakemake", "--cores", "1", *targets, cwd=checkout.root)


def log(checkout: Checkout, target: str) -> Path:
    return checkout.root / "logs" / "fetch" / f"{Path(target).name}.log"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_second_waits_and_finds_it_fetched(checkouts, server) -> None:
    server.cut, server.stall = [100], Event()
    processes = [start(checkout, FIRST) for checkout in checkouts]
    until(lambda: server.asked and all(log(one, FIRST).exists() for one in checkouts))
    time.sleep(PATIENCE + 2)  # longer than who does not wait
    server.stall.set()
    done = [process.end() for process in processes]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert [range for _, range in server.asked] == [None, "bytes=100-"]
    said = sorted(log(one, FIRST).read_text().count("fetching") for one in checkouts)
    assert said == [0, 1]
    fetched = checkouts[0].root / FIRST
    assert fetched.read_bytes() == CONTENT
    left = {path.name for path in fetched.parent.iterdir()}
    assert left == {fetched.name, f"{fetched.name}.checked.json"}


def test_what_came_after_a_workflow_began_is_not_deleted(checkouts, server) -> None:
    """Its job, which waits for its turn, finds the file of another."""
    server.cut, server.stall = [100], Event()
    process = start(checkouts[0], FIRST, SECOND)
    until(lambda: server.asked)
    names = {f"/{Path(path).name}": path for path in (FIRST, SECOND)}
    [(begun, _)] = server.asked
    [other] = names.keys() - {begun}
    (checkouts[1].root / names[other]).write_bytes(CONTENT)
    inode = (checkouts[1].root / names[other]).stat().st_ino
    server.stall.set()
    done = process.end()
    assert done.returncode == 0, done.stderr
    assert {path for path, _ in server.asked} == {begun}
    assert (checkouts[0].root / names[other]).stat().st_ino == inode
