"""What a folder is published as: whole, for all who may share it, and with nothing beside it."""

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from d2it import cli
from d2it.commands import models
from d2it.files import atomic_folder, locked, remove_folder


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o2775), (0o022, 0o2755), (0o077, 0o2700)])
def test_a_folder_of_a_group_stays_one(tmp_path: Path, umask: int, mode: int) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(umask)
    try:
        for _ in range(2):  # the second takes the place of the first
            with atomic_folder(tmp_path / "model") as folder:
                (folder / "nested").mkdir()
            for made in (tmp_path / "model", tmp_path / "model" / "nested"):
                assert stat.S_IMODE(made.stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails_loses_nothing(tmp_path: Path, monkeypatch, fails: int) -> None:
    path, renames, replace = tmp_path / "model", [], os.replace
    path.mkdir()
    (path / "old").touch()

    def refuse(*names: Path) -> None:
        renames.append(names)
        if len(renames) == fails:
            raise PermissionError
        replace(*names)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError), atomic_folder(path):
        pass
    [left] = tmp_path.iterdir()
    assert [found.name for found in left.rglob("old")] == ["old"]
    assert (left == path) == (fails == 1)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch, capsys, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def main(_: object) -> None:
        with locked(tmp_path / "lock"):
            raise AssertionError("nobody holds a lock")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(models, "main", main)  # a verb that takes no settings
    assert cli.main(["models"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("d2it: error: This file system has no file locks: mount it with flock")


def test_a_folder_is_removed_at_once(tmp_path: Path) -> None:
    """Nobody sees it without what is in it; that it is not there does no harm."""
    path = tmp_path / "array"
    words = [path / f"{i}.json" for i in range(5000)]
    path.mkdir()
    for word in words:
        word.touch()
    remover = threading.Thread(target=remove_folder, args=(path,))
    remover.start()
    while remover.is_alive():
        there = words[0].exists() and words[-1].exists()
        assert there or not path.exists()
    remove_folder(path)
    assert not list(tmp_path.iterdir())
