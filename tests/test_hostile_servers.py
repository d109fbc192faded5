"""Fetching from servers that mean harm: bounded, over http alone, and told in plain words."""

import itertools
from pathlib import Path

import pytest

from d2it.errors import UserError
from d2it.sources.fetch import fetch, weights_file
from tests.commands import command
from tests.listed import CONTENT, assert_refused, files, row, table
from tests.listed import folder as folder
from tests.listed import server as server

OK = b"HTTP/1.1 200 OK\r\n"


def test_a_body_without_a_length_ends_at_the_listed_size(folder, server):
    """It would fill the disk."""
    sent = itertools.count()
    endless = (bytes(2**16) for _ in sent)
    server.raw["/net.pt"] = itertools.chain([OK + b"\r\n"], itertools.islice(endless, 2**12))
    table(row(server.url("/net.pt")))
    refused = command("fetch", "net")
    assert_refused(refused, f"more than {len(CONTENT)} bytes arrive")
    assert set(files()) == {"data/sources.csv"} and next(sent) < 2**10  # and what sockets hold


def test_a_body_without_a_length_is_kept(folder, server):
    server.raw["/net.pt"] = [OK + b"\r\n", CONTENT]
    table(row(server.url("/net.pt")))
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [b"abc", b"-1", b"9" * 5000, b"1e3", "²".encode()])
def test_a_length_that_is_no_number(folder, server, length):
    server.raw["/net.pt"] = [OK + b"Content-Length: " + length + b"\r\n\r\n", b"<html>"]
    server.files["/mirror.pt"] = CONTENT
    table(row(server.url("/net.pt"), mirrors=server.url("/mirror.pt")))
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT


@pytest.mark.parametrize("scheme", ["ftp", "file", "data", "gopher"])
def test_nothing_but_http_is_followed(folder, server, scheme):
    secret = Path("secret")
    secret.write_bytes(CONTENT)
    place = {"file": f"file://{secret.resolve()}", "data": "data:,x"}
    target = place.get(scheme, f"{scheme}://127.0.0.1:{server.server_port}/x")
    server.raw["/net.pt"] = [b"HTTP/1.1 302 Found\r\nLocation: " + target.encode() + b"\r\n\r\n"]
    table(row(server.url("/net.pt")))
    assert_refused(command("fetch", "net"), "could not be fetched")
    assert len(server.asked) == 1
    assert set(files()) == {"data/sources.csv", "secret"}


def test_a_redirect_to_http_is_followed(folder, server):
    location = server.url("/moved.pt").encode()
    server.raw["/net.pt"] = [b"HTTP/1.1 301 Moved\r\nLocation: " + location + b"\r\n\r\n"]
    server.files["/moved.pt"] = CONTENT
    table(row(server.url("/net.pt")))
    fetch(["net"])
    assert weights_file("net").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "status",
    [
        b"HTTP/1.1 404 \x1b]0;owned\x07\x1b[2Jgone\r\n\r\n",
        b"\x1b[31mHTTP/9 nonsense\r\n\r\n",
        b"HTTP/1.1 403 " + b"x" * 60000 + b"\r\n\r\n",
    ],
)
def test_a_servers_words_cannot_steer_a_terminal(folder, server, status):
    server.raw["/net.pt"] = [status]
    table(row(server.url("/net.pt")))
    refused = command("fetch", "net")
    assert_refused(refused, "could not be fetched")
    assert refused.stderr.strip().isprintable() and len(refused.stderr) < 2000


def test_nor_can_the_name_of_a_file(tmp_path):
    name = "\x1b[2J\nmap\udcff.png"
    done = command("grains", name, cwd=tmp_path)
    assert_refused(done, r"\x1b[2J map\udcff.png")
    assert str(UserError("ü – 30 µm\u202e")) == r"ü – 30 µm\u202e"
