"""The answers of `d2it app`, without a browser: what it draws, and what it refuses."""

import base64
import http.client
import io
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2it import cli
from d2it.app import server as module
from d2it.app.server import PHOTOGRAPH, REQUEST, WAITING, Server
from d2it.app.studio import Studio
from d2it.errors import UserError
from d2it.grains.rows import from_rows, to_rows
from tests.commands import command
from tests.exported import export_random
from tests.forked import Forked
from tests.tiny_world import enter

MAP = [[int(2 <= row < 5 or column == 6) for column in range(8)] for row in range(8)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("app"), patch)
        export_random("exported")
        with Server(Studio("exported"), "127.0.0.1", 0) as server:
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield server
            server.shutdown()
            thread.join()


def ask(
    server: Server, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    connection.request("POST" if body is not None else "GET", path, body, headers)
    answer = connection.getresponse()
    told = answer.status, json.loads(answer.read())
    connection.close()
    return told


def draw(server: Server, **asked: Any) -> dict[str, Any]:
    status, told = ask(server, "/draw", json.dumps({"seed": 0} | asked).encode())
    assert status == 200, told
    return told


ASKED: list[dict[str, Any]] = [
    {"seed": 5, "map": MAP, "label": "food", "steps": 3, "guidance": 1.5},
    {"seed": 2, "ratio": 0.3},
    {"seed": 13, "label": "6", "map": [[0] * 8] * 8},
]


@pytest.mark.parametrize("asked", ASKED)
def test_the_command_and_the_python_draw_the_same_bytes(
    server: Server, asked: dict[str, Any]
) -> None:
    drawn = draw(server, **asked)
    i = asked["seed"] - drawn["first"]
    file = base64.b64decode(drawn["images"][i])
    words = shlex.split(drawn["command"])
    done = command(*words[1:])
    assert done.returncode == 0, done.stderr
    out = Path(words[-1])
    assert (out / f"{asked['seed']:06d}.png").read_bytes() == file
    assert np.load(out / "maps.npy").tolist() == [drawn["maps"][i]]
    names: dict[str, Any] = {}
    exec(drawn["python"], names)
    assert np.array_equal(names["images"], [np.array(Image.open(io.BytesIO(file)))])
    said = json.loads((out / "samples.json").read_text())["gmacs"]
    assert drawn["gmacs"][i] == pytest.approx(said, rel=1e-12)
    if "map" in asked:
        assert drawn["maps"][i] == asked["map"]
        assert drawn["codes"][i] == 64 + 3 * np.sum(asked["map"])


def test_words_name_what_differs_from_the_folder_alone(server: Server) -> None:
    facts = ask(server, "/facts")[1]
    own = {name: facts[name] for name in ("steps", "guidance", "ratio")}
    drawn, plain = draw(server, seed=1, **own), draw(server, seed=1)
    assert drawn == plain and "--steps" not in drawn["command"]
    assert "food" in facts["classes"] and facts["elastic"] and facts["side"] == 8


def test_the_same_is_drawn_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(server, seed=20, map=MAP)
    monkeypatch.delattr("d2it.sampling.pipeline.Pipeline.sample")
    beside = draw(server, seed=21, map=MAP)
    assert beside["images"] == drawn["images"] and beside["command"] != drawn["command"]


def test_the_map_of_a_photograph(server: Server) -> None:
    """By the thresholds of the training, as `d2it grains` says."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    pixels[:40, :48] //= 64
    Image.fromarray(pixels).save("photo.png")
    grains = ["grains", "photo.png", "--size", "64", "--factors", "8", "4", "--json"]
    [thresholds] = map(str, Path("data").rglob("thresholds.json"))
    grains += ["--thresholds", thresholds]
    for path, more in (
        ("/photograph", []),
        ("/photograph?ratio=0.3", ["--ratio", "0.3"]),
    ):
        status, told = ask(server, path, Path("photo.png").read_bytes())
        said = json.loads(command(*grains, *more).stdout)["maps"][0]["map"]
        assert status == 200 and told["map"] == said and 0 < np.mean(said) < 1


def of(**asked: Any) -> bytes:
    return json.dumps({"seed": 0} | asked).encode()


BAD: dict[str, tuple[str, bytes | None, int, str]] = {
    "unknown class": ("/draw", of(label="foood"), 400, "did you mean 'food'"),
    "class out of range": ("/draw", of(label="9"), 400, "or 0 to 8"),
    "map of another size": ("/draw", of(map=[[0] * 4] * 4), 400, "must be 8 x 8"),
    "ragged map": ("/draw", of(map=[*MAP[:7], [0]]), 400, "differ in length"),
    "empty map": ("/draw", of(map=[]), 400, "differ in length"),
    "unknown grain": ("/draw", of(map=[[2] * 8] * 8), 400, "from 0 to 1"),
    "map of words": ("/draw", of(map=[["a"] * 8] * 8), 400, "request.map is"),
    "map and ratio": ("/draw", of(map=MAP, ratio=0.3), 400, "give a map or a ratio"),
    "impossible ratio": ("/draw", of(ratio=1.5), 400, "lies in [0, 1]"),
    "negative seed": ("/draw", of(seed=-1), 400, "seed is -1, but must be at least 0"),
    "enormous seed": ("/draw", of(seed=10**400), 400, "must be at least 0 and below 1e12"),
    "half a seed": ("/draw", of(seed=0.5), 400, "must be a whole number"),
    "no step": ("/draw", of(steps=0), 400, "steps is 0"),
    "too many steps": ("/draw", of(steps=1001), 400, "not between 1 and 1000"),
    "negative guidance": ("/draw", of(guidance=-1), 400, "guidance is -1"),
    "no guidance": ("/draw", of(guidance=float("nan")), 400, "request.guidance is nan"),
    "unknown key": ("/draw", of(sedd=1), 400, "did you mean 'seed'"),
    "no seed": ("/draw", b"{}", 400, "'request.seed' is missing"),
    "no table": ("/draw", b"[1]", 400, "must be a table"),
    "no JSON": ("/draw", b"\xff{", 400, "not JSON"),
    "deep JSON": ("/draw", b"[" * 60_000, 400, "not JSON"),
    "no picture": ("/photograph", b"no picture", 400, "no image of a known kind"),
    "ratio of words": ("/photograph?ratio=a", b"", 400, "cannot be read"),
    "path": ("/../exported/pipeline.json", None, 404, "no such page"),
    "folder": ("/draw/..%2f..%2fpipeline.json", b"{}", 404, "no such page"),
    "large request": ("/draw", b" " * (REQUEST + 1), 413, "larger than 64 KiB"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_one_sentence(server: Server, case: str) -> None:
    path, body, expected, sentence = BAD[case]
    status, told = ask(server, path, body)
    assert status == expected and set(told) == {"error"}
    assert sentence in told["error"] and told["error"].endswith((".", "…"))
    assert draw(server)["first"] == 0  # and it goes on


@pytest.mark.parametrize(
    ("ratio", "sentence"), [("a", "no number"), ("nan", "[0, 1]"), ("0.1,0.2", "2 grains need 1")]
)
def test_bad_ratios_of_a_photograph(server: Server, ratio: str, sentence: str) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    status, told = ask(server, f"/photograph?ratio={ratio}", picture.getvalue())
    assert status == 400 and sentence in told["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "localhost:{port}", "Origin": "http://127.0.0.1:{port}"},
    ],
)
def test_other_sites_are_refused(server: Server, headers: dict[str, str]) -> None:
    """A name of theirs that leads here, and a page of theirs that asks."""
    headers = {name: value.format(port=server.server_port) for name, value in headers.items()}
    for path, body in (("/facts", None), ("/draw", of())):
        status, told = ask(server, path, body, **headers)
        assert status == 403 and told["error"].startswith("Only pages of http://127.0.0.1:")


def test_this_machine_is_let_in_by_any_address_of_its_own(server: Server) -> None:
    for host in ("localhost", "127.0.0.1:7", "[::1]:7860", "192.168.1.2"):
        assert ask(server, "/draw", of(), Host=host, Origin=f"http://{host}")[0] == 200


def test_a_request_must_say_its_length(server: Server) -> None:
    for length, expected in (("", 411), ("-1", 411), ("9" * 40, 413), (str(PHOTOGRAPH + 1), 413)):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
        connection.putrequest("POST", "/photograph")
        if length:
            connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status == expected
        connection.close()


def test_few_wait_and_who_leaves_is_not_drawn_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(server.studio, "draw", drawn.append)
    with ThreadPoolExecutor(WAITING) as pool, server.turn:
        leaving = http.client.HTTPConnection("127.0.0.1", server.server_port)
        leaving.request("POST", "/draw", b"leaving")
        waiting = [pool.submit(ask, server, "/draw", b"%d" % i) for i in range(WAITING - 1)]
        deadline = time.monotonic() + 120
        while server.room._value and time.monotonic() < deadline:
            time.sleep(0.01)
        status, told = ask(server, "/draw", b"late")
        assert status == 503 and f"{WAITING} drawings are waiting" in told["error"]
        assert ask(server, "/facts")[0] == 200
        leaving.close()
        server.turn.release()
        assert [one.result() for one in waiting] == [(200, None)] * (WAITING - 1)
        server.turn.acquire()
    assert sorted(drawn) == [str(i) for i in range(WAITING - 1)]


def test_a_failure_of_ours_is_told_in_the_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.studio, "draw", lambda text: 1 // 0)
    status, told = ask(server, "/draw", of())
    assert status == 500 and "the terminal of `d2it app`" in told["error"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    for path, (body, _) in server.page.items():
        assert b"//" not in body.replace(b"// ", b"").replace(b"http://www.w3.org", b""), path
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.read() == server.page["/"][0]
    assert answer.headers["Content-Security-Policy"] == module.POLICY
    connection.close()


def test_no_port_no_folder(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    taken = str(server.server_port)
    for words, sentence in (
        (["exported", "--port", taken], f"127.0.0.1:{taken} (Address already in use): name"),
        (["exported", "--port", "70000"], "at most 65535"),
        (["exported", "--host", "no.such.host.invalid", "--port", "0"], "no.such.host.invalid:0"),
        (["nowhere", "--port", "0"], "no exported folder nowhere: "),
    ):
        assert cli.main(["app", *words]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("d2it: error") == 1, error


def test_it_ends_with_ctrl_c(server: Server) -> None:
    app = Forked("d2it", "app", "exported", "--port", "0", "--host", "::1")
    deadline = time.monotonic() + 120
    while not app.lines:
        assert app.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert app.lines[0].startswith("http://[::1]:")
    os.kill(app.pid, signal.SIGINT)
    done = app.end()
    assert (done.returncode, done.stderr) == (0, "")


def test_maps_in_rows() -> None:
    assert to_rows([[0, 1], [2, 0]]) == "01,20"
    map = from_rows("01,20")
    assert map is not None and map.tolist() == [[0, 1], [2, 0]]
    assert from_rows("map.png") is None and from_rows("0110") is None
    with pytest.raises(UserError, match="differ in length"):
        from_rows("01,2")
