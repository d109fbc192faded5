"""The index beside a tar: believed only where it is whole and can be of that very tar."""

import json
from pathlib import Path

import pytest

from d2it.files import SEAL, canonical_digest
from d2it.images.archive import Picture, list_pictures
from tests.test_archives import tar_of
from tests.test_hostile_images import encoded

OFFSET = 512  # of the first file, behind its header


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({f"{i}.png": encoded("PNG", 16 + i) for i in range(3)}))
    return path


@pytest.fixture
def index(tar: Path) -> Path:
    list_pictures(tar)
    return tar.with_name(".a.tar.index.json")


def restate(index: Path, **facts: object) -> None:
    """By hand, with the digest that goes with it."""
    said = json.loads(index.read_text()) | facts
    said.pop(SEAL)
    index.write_text(json.dumps(said | {SEAL: canonical_digest(said)}))


def test_what_it_says_is_taken(tar: Path, index: Path) -> None:
    """Else no test below could fail."""
    restate(index, pictures=[["other.png", 5, OFFSET, 3]])
    assert list_pictures(tar) == [Picture(str(tar), "other.png", 5, OFFSET, 3)]


@pytest.mark.parametrize(
    "picture",
    [
        ["a.png", 5, 10**9, None],
        ["a.png", 10**9, OFFSET, None],
        ["a.png", -5, OFFSET, None],
        ["a.png", 5, -1, None],
        ["a.png", 5.0, OFFSET, None],
        ["a.png", True, OFFSET, None],
        ["a.png", "5", OFFSET, None],
        ["a.png", 5, OFFSET, -1],
        ["a.png", 5, OFFSET, "cat"],
        ["a.sh", 5, OFFSET, None],
        [3, 5, OFFSET, None],
        [None, 5, OFFSET, None],
        ["a.png", 5],
        ["a.png", 5, OFFSET, None, 4],
        "a.png",
        3,
        None,
    ],
)
def test_what_cannot_be_is_listed_anew(tar: Path, index: Path, picture: object) -> None:
    wanted, sound = list_pictures(tar), index.read_bytes()
    restate(index, pictures=[picture])
    assert list_pictures(tar) == wanted and index.read_bytes() == sound


@pytest.mark.parametrize("facts", [{"pictures": None}, {"bytes": 3}, {"mtime_ns": 0}])
def test_of_another_tar(tar: Path, index: Path, facts: dict) -> None:
    wanted, sound = list_pictures(tar), index.read_bytes()
    restate(index, **facts)
    assert list_pictures(tar) == wanted and index.read_bytes() == sound


def test_every_flipped_bit_is_noticed_or_says_nothing_else(tar: Path, index: Path) -> None:
    wanted, sound = list_pictures(tar), index.read_bytes()
    for place in range(len(sound)):
        index.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert list_pictures(tar) == wanted, sound[place - 20 : place + 20]
        index.unlink()  # it may be the same to whoever reads it


def test_one_larger_than_its_tar_is_not_read(tar: Path, index: Path) -> None:
    wanted = list_pictures(tar)
    restate(index, pictures=[], more="x" * tar.stat().st_size)
    assert list_pictures(tar) == wanted
