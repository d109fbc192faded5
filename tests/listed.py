"""A folder with a list of sources of its own, and a server on loopback that has them."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from d2it.sources import download
from d2it.sources.table import Source
from tests.commands import Done
from tests.loopback import serving

CONTENT = np.random.default_rng(0).bytes(300_000)
COLUMNS = list(Source.__dataclass_fields__)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a table of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("D2IT_WEIGHTS", "D2IT_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path


def table(*rows: dict[str, object]) -> None:
    Path("data").mkdir(exist_ok=True)
    with open("data/sources.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def row(url: str, content: bytes = CONTENT, **more: object) -> dict[str, object]:
    values = {"name": "net", "group": "weights", "url": url, "bytes": len(content)}
    return {**dict.fromkeys(COLUMNS, ""), **values, "sha256": sha256(content), **more}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path().rglob("*")) if p.is_file()}


def assert_refused(answer: Done, *words: str) -> None:
    """Exit code 2, one sentence that holds the words, no traceback."""
    assert answer.returncode == 2, answer.stderr
    sentence = answer.stderr.strip()
    assert sentence.startswith("d2it: error: ") and len(sentence.splitlines()) == 1
    for word in words:
        assert word in sentence
