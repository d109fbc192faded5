"""Fetching against a server on loopback: what breaks is resumed, what is wrong leaves nothing."""

import csv
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from safetensors.numpy import load_file

from d2it.errors import UserError
from d2it.sources import download
from d2it.sources.fetch import fetch, source_path, verify, weights_file
from d2it.sources.lpips_pickle import read_arrays
from d2it.sources.table import Source, read_sources
from tests.commands import Done, command
from tests.loopback import Server, serving

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


def test_a_broken_download_goes_on_at_the_byte_where_it_stopped(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    server.cut = [100_000, 0, 0, 0]
    with pytest.raises(UserError, match="goes on where it stopped"):
        fetch(["net"])
    assert Path("data/weights/net.pt.part").read_bytes() == CONTENT[:100_000]
    assert not Path("data/weights/net.pt").exists()

    server.asked.clear()
    fetch(["net"])
    assert server.asked == [("/net.pt", "bytes=100000-")]
    assert weights_file("net").read_bytes() == CONTENT
    assert not list(Path().rglob("*.part"))


def test_one_command_survives_a_few_broken_connections(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    server.cut = [1, 150_000, 99_999]
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [
        None,
        "bytes=1-",
        "bytes=150001-",
        "bytes=250000-",
    ]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("kept", [b"x" * 1000, CONTENT + b"longer than the file"])
def test_a_server_without_ranges_or_a_spoilt_part_starts_again(folder, server, kept, ranges):
    server.files["/net.pt"] = CONTENT
    server.ranges = ranges
    table(row(server.url("/net.pt")))
    Path("data/weights").mkdir(parents=True)
    Path("data/weights/net.pt.part").write_bytes(kept)
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [CONTENT[:-1] + b"!", CONTENT[:-1], CONTENT + b"!"])
def test_wrong_bytes_leave_nothing(folder, server, damage):
    server.files["/net.pt"] = damage
    table(row(server.url("/net.pt"), bytes=len(CONTENT)))
    before = files()
    assert_refused(command("fetch", "net"), "net could not be fetched", server.url("/net.pt"))
    assert files() == before


def test_a_killed_command_goes_on_when_repeated_and_two_at_once_are_one_too_many(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    server.cut, server.stall = [200_000], Event()
    part = Path("data/weights/net.pt.part")
    first = subprocess.Popen([sys.executable, "-m", "d2it", "fetch", "net"])
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert_refused(command("fetch", "net"), "Another command is fetching net.pt")
    first.kill()
    first.wait()
    got = part.stat().st_size  # of the 200,000 that were sent: the rest may not have been read
    assert got
    server.stall.set()
    server.asked.clear()
    fetch(["net"])
    assert server.asked == [("/net.pt", f"bytes={got}-")]
    assert weights_file("net").read_bytes() == CONTENT


def test_mirrors_are_tried_in_turn(folder, server):
    server.files["/good.pt"] = CONTENT
    server.files["/bad.pt"] = CONTENT[::-1]
    mirrors = f"{server.url('/bad.pt')} {server.url('/good.pt')}"
    table(row(server.url("/gone.pt"), mirrors=mirrors))
    fetch(["net"])
    assert [path for path, _ in server.asked] == ["/gone.pt", "/bad.pt", "/good.pt"]
    assert weights_file("net").read_bytes() == CONTENT


def test_what_is_there_and_intact_is_not_fetched_again(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    fetch(["net"])
    server.asked.clear()
    fetch(["net"])
    fetch(["weights"])
    fetch(["all"])
    assert command("fetch", "net", D2IT_OFFLINE="1").returncode == 0
    assert server.asked == []


def test_a_damaged_file_is_noticed_named_and_mended(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    with pytest.raises(UserError, match="missing: get it with `d2it fetch net`"):
        weights_file("net")
    fetch(["net"])
    verify()
    path = weights_file("net")
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    before = files()
    with pytest.raises(UserError, match="get it again with `d2it fetch net`"):
        weights_file("net")
    assert_refused(command("verify"), "net.pt", "d2it fetch net")
    assert files() == before
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT


def test_verify_reads_the_file_whatever_was_remembered(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    fetch(["net"])
    path = weights_file("net")
    status = path.stat()
    path.write_bytes(CONTENT[::-1])  # same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # and same time
    assert_refused(command("verify"), "net.pt")


def test_offline_is_one_sentence(folder, server):
    table(row(server.url("/net.pt")))
    before = files()
    assert_refused(command("fetch", "net", D2IT_OFFLINE="1"), "D2IT_OFFLINE", "net.pt")
    assert server.asked == [] and files() == before


def test_no_network_is_one_sentence(folder):
    table(row("http://127.0.0.1:9/net.pt"))  # nothing listens there
    before = files()
    assert_refused(command("fetch", "net"), "refused", "check the network")
    assert files() == before


def test_an_unknown_name_gets_the_nearest_one(folder):
    table(row("http://127.0.0.1:9/net.pt", name="inception"))
    before = files()
    assert_refused(command("fetch", "incepton"), "'incepton' (did you mean 'inception'?)")
    assert files() == before


def test_a_disk_that_is_too_small_is_noticed_before_the_download(folder, server):
    server.files["/net.pt"] = CONTENT
    server.claimed = 10**15
    table(row(server.url("/net.pt"), bytes=10**15))
    before = files()
    assert_refused(command("fetch", "net"), "GB free", "needed")
    assert files() == before


def test_a_folder_that_cannot_be_written_is_one_sentence(folder, server):
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    assert_refused(command("fetch", "net", D2IT_WEIGHTS="/sys/d2it"), "check its permissions")


def test_a_damaged_table_is_one_sentence(folder):
    table(row("http://127.0.0.1:9/net.pt", bytes="many"))
    assert_refused(command("fetch", "net"), "sources.csv is damaged")


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


def test_the_embedded_photographs_are_the_listed_files():
    photos = [source for source in read_sources().values() if source.group == "photos"]
    assert len(photos) == 7
    for source in photos:
        path = source_path(source.name)
        assert path.stat().st_size == source.bytes


def test_the_fetched_weights_are_the_listed_files():
    for name, last in (("lpips_alex", "conv4"), ("lpips_vgg", "conv12")):
        path = weights_file(name)
        tensors = load_file(path)
        assert {f"{last}.weight", f"{last}.bias", "conv0.weight", "lin4.weight"} <= set(tensors)
        assert tensors["conv0.weight"].shape[:2] == (64, 3)
        record = json.loads(path.with_name(f"{path.name}.checked.json").read_text())
        assert record["source_sha256"] == read_sources()[name].sha256
    inception = weights_file("inception")
    assert sha256(inception.read_bytes()) == read_sources()["inception"].sha256
