"""Arrays from strangers: each is refused in one sentence before anything is allocated for it."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from d2it.errors import UserError
from d2it.evaluation import image_arrays
from d2it.evaluation.image_sets import open_pictures
from d2it.models.inception import DIMENSIONS, SPATIAL
from tests.commands import command

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


def header(
    text: str, content: bytes = IMAGES.tobytes(), version: tuple[int, int] = (1, 0)
) -> bytes:
    """An .npy whose header is this text, whatever it says."""
    words = text.encode() + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(words))
    return b"\x93NUMPY" + bytes(version) + size + words + content


def saying(shape: str, descr: str = "|u1", order: str = "False") -> bytes:
    return header(f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}}}")


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


HOSTILE = {
    "no height and width": saved(np.zeros((4, 0, 0, 3), np.uint8)),
    "no images": saved(np.zeros((0, 8, 8, 3), np.uint8)),
    "one channel": saved(IMAGES[..., :1]),
    "a picture alone": saved(IMAGES[0]),
    "a number": saved(np.array(1.0)),
    "floats": saved(IMAGES / 255),
    "signed": saved(IMAGES.astype(np.int8)),
    "objects": saved(np.array([{}, None], dtype=object)),
    "text": saved(np.array(["a", "b"])),
    "records": saved(np.zeros(4, [("a", "u1"), ("b", "f8")])),
    "more than there is": saying("(5, 8, 8, 3)"),
    "less than there is": saying("(3, 8, 8, 3)"),
    "a billion": saying("(1000000000, 8, 8, 3)"),
    "more than numbers are large": saying(f"({10**30}, 8, 8, 3)"),
    "a negative number": saying("(-4, 8, 8, 3)"),
    "two negative numbers": saying("(-4, -8, 8, 3)"),
    "no number": saying("(4.0, 8, 8, 3)"),
    "truth": saying("(True, 32, 8, 3)"),
    "a call": saying("__import__('os')"),
    "no kind of number": saying("(4, 8, 8, 3)", "nonsense"),
    "a pickle's kind": saying("(4, 8, 8, 3)", "|O"),
    "no header": header("[]"),
    "brackets": header("(" * 5000),
    "a header of megabytes": header(" " * 2**22, version=(2, 0)),
    "a version of the future": header("{}", version=(9, 9)),
    "an archive's first bytes": b"PK\3\4" + bytes(100),
    "a pickle": b"\x80\x04N.",
    "nothing": b"",
    "half a header": saved(IMAGES)[:40],
}


def npy(content: bytes, folder: Path) -> Path:
    (folder / "a.npy").write_bytes(content)
    return folder / "a.npy"


def npz(content: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)
    return folder / "a.npz"


@pytest.mark.parametrize("write", [npy, npz])
def test_images_are_read(write: Callable[[bytes, Path], Path], tmp_path: Path) -> None:
    for content in (saved(IMAGES), saved(np.asfortranarray(IMAGES)), saying("(4, 8, 8, 3)")):
        found = open_pictures(write(content, tmp_path))
        assert np.array_equal(found.read(0, 4), IMAGES) and found.side == (8, 8)


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("write", [npy, npz])
def test_what_are_no_images(write: Callable, case: str, tmp_path: Path) -> None:
    path = write(HOSTILE[case], tmp_path)
    with pytest.raises(UserError) as told:
        open_pictures(path)
    words = ("cannot be read", "is no batch of images", "at least two images")
    assert any(word in str(told.value) for word in words) and "llocate" not in str(told.value)


def test_an_archive_that_lies_about_a_size(tmp_path: Path) -> None:
    path = npz(saving := saying("(400, 8, 8, 3)"), tmp_path)
    claimed = struct.pack("<I", len(saving) + 396 * 192)
    content = bytearray(path.read_bytes())
    for place in (22, content.rindex(b"PK\1\2") + 24):
        content[place : place + 4] = claimed
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_pictures(path)


def test_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_arrays.os, "sysconf", lambda _: 16)
    with pytest.raises(UserError, match="more than the memory"):
        open_pictures(npz(saved(IMAGES), tmp_path))
    assert open_pictures(npy(saved(IMAGES), tmp_path)).n == 4  # it stays on the disk


@pytest.fixture(scope="module")
def sound() -> dict[str, np.ndarray]:
    return {
        "arr_0": IMAGES,
        "mu": np.zeros(DIMENSIONS, np.float32),
        "sigma": np.eye(DIMENSIONS, dtype=np.float32),
        "mu_s": np.zeros(SPATIAL),
        "sigma_s": np.eye(SPATIAL),
    }


def skewed(matrix: np.ndarray) -> np.ndarray:
    matrix = matrix.copy()
    matrix[0, 1] = 0.5
    return matrix


SPOILT = {
    "negative": ("sigma", lambda sigma: -sigma),
    "one negative direction": ("sigma_s", lambda s: s - 1.1 * np.diag(np.arange(len(s)) == 7)),
    "not symmetric": ("sigma", skewed),
    "infinite": ("mu", lambda mu: mu + np.inf),
    "no numbers": ("sigma_s", lambda sigma: sigma * np.nan),
    "larger than squares can be": ("mu_s", lambda mu: mu + 1e200),
    "complex": ("mu", lambda mu: mu + 1j),
    "whole numbers": ("mu", lambda mu: mu.astype(int)),
    "of another width": ("mu_s", lambda mu: mu[1:]),
    "a row": ("mu", lambda mu: mu[None]),
    "objects": ("sigma", lambda sigma: np.array([None, {}], dtype=object)),
}


@pytest.mark.parametrize("case", SPOILT)
def test_statistics_that_are_none(case: str, sound: dict[str, np.ndarray], tmp_path: Path) -> None:
    key, spoil = SPOILT[case]
    np.savez(tmp_path / "a.npz", **sound | {key: spoil(sound[key])})
    with pytest.raises(UserError, match="is no reference batch: its|cannot be read") as told:
        open_pictures(tmp_path / "a.npz")
    assert key in str(told.value) or case == "objects"


def test_statistics_that_lack_half(sound: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=IMAGES, mu=sound["mu"], sigma=sound["sigma"])
    with pytest.raises(UserError, match="its mu_s must be"):
        open_pictures(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **sound)
    assert open_pictures(tmp_path / "a.npz").gaussians.keys() == {"features", "spatial"}


def test_the_command_says_it_in_one_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((4, 0, 0, 3), np.uint8))
    (tmp_path / "billion.npy").write_bytes(HOSTILE["a billion"])
    for name in ("none.npy", "billion.npy"):
        done = command("evaluate", "--images", name, "--reference", name, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(f"d2it: error: {name} ")
        assert done.stderr.count("\n") == 1
