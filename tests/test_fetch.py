"""Fetching against a server on loopback: what breaks is resumed, what is wrong leaves nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from safetensors.numpy import load_file

from d2it.errors import UserError
from d2it.files import matches
from d2it.sources.fetch import fetch, source_path, verify, weights_file
from d2it.sources.table import read_sources
from tests.commands import command
from tests.listed import CONTENT, assert_refused, files, row, sha256, table
from tests.listed import folder as folder
from tests.listed import server as server


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
    said = f"data/weights is being fetched into by process {first.pid} on"
    assert_refused(command("fetch", "net"), said)
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
    before, status = files(), path.stat()
    with pytest.raises(UserError, match="get it again with `d2it fetch net`"):
        weights_file("net")
    assert_refused(command("verify"), "net.pt", "d2it fetch net")
    assert_refused(
        command("fetch", "net", D2IT_OFFLINE="1"), "data/weights/net.pt is missing or damaged and"
    )
    assert files().keys() == before.keys() and path.read_bytes() == before[str(path)]
    assert path.stat().st_mtime_ns == status.st_mtime_ns  # it may be another's
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
    assert weights_file("net") == path  # which only compares these
    assert_refused(command("verify"), "net.pt", "d2it fetch net")
    with pytest.raises(UserError, match="get it again"):  # now every command knows
        weights_file("net")
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT


def test_every_file_is_read_once_whoever_owns_the_folder(folder, server, monkeypatch):
    read: list[str] = []

    def reading(path, checksum):
        read.append(path.name)
        return matches(path, checksum)

    monkeypatch.setattr("d2it.sources.fetch.matches", reading)
    monkeypatch.setattr("d2it.sources.fetch.write_json", no_permission)
    server.files["/net.pt"] = CONTENT
    table(row(server.url("/net.pt")), row(server.url("/net.pt"), name="other"))
    Path("data/weights").mkdir()
    Path("data/weights/net.pt").write_bytes(CONTENT[::-1])
    Path("data/weights/other.pt").write_bytes(CONTENT)
    assert_refused(command("fetch", "net", "other", D2IT_OFFLINE="1"), "D2IT_OFFLINE forbids")
    assert sorted(read) == ["net.pt", "other.pt"]


def no_permission(path, value):
    raise PermissionError(path)


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
