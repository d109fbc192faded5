"""The page and its four answers over HTTP, for the browsers of this machine.

Nothing is read by a path that a browser names, nothing is written. Requests whose Host or Origin is
another site's are refused, so that a page of the web cannot draw here, nor read what is drawn.
"""

import contextlib
import ipaddress
import json
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from d2it.app.studio import Studio
from d2it.errors import UserError, is_out_of_memory

PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
REQUEST, PHOTOGRAPH = 2**16, 2**25  # bytes at most
WAITING = 8  # requests, the one that is drawn included
SILENCE = 20  # seconds that a browser may take for its next bytes
SENTENCE = 400  # characters at most, of what may repeat what was sent
# Scripts, pictures and answers come from here alone, and no other page may show this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Refusal(Exception):
    """An answer that is no success: its status and its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, studio: Studio, host: str, port: int) -> None:
        self.studio, self.host = studio, host
        self.facts = json.dumps(studio.facts())
        self.page = {
            path: (files("d2it.app").joinpath(name).read_bytes(), f"{kind}; charset=utf-8")
            for path, (name, kind) in PAGE.items()
        }
        self.room, self.turn = threading.BoundedSemaphore(WAITING), threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise UserError(
                f"The page cannot listen on {host}:{port} ({error.strerror}): name another --port "
                "(0 takes a free one) or --host."
            ) from None

    def server_bind(self) -> None:
        """HTTPServer's own would ask DNS for a name, which may take long where there is none."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def address(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.server_port}"

    def knows(self, host: str) -> bool:
        """Whether a browser that asks this Host means us. A name of the web's could be made to lead
        here (DNS rebinding); an address cannot.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in ("localhost", self.host.lower(), socket.gethostname().lower()):
                ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    @contextlib.contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        if not self.room.acquire(blocking=False):
            raise Refusal(503, f"{WAITING} drawings are waiting: try again when they are done.")
        try:
            with self.turn:
                yield
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = SILENCE
    server_version, sys_version = "d2it", ""

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def _get(self, path: str) -> tuple[bytes, str]:
        if path == "/facts":
            return self.server.facts.encode(), "application/json"
        if path not in self.server.page:
            raise Refusal(404, "There is no such page.")
        return self.server.page[path]

    def _post(self, path: str) -> tuple[bytes, str]:
        limits = {"/draw": REQUEST, "/photograph": PHOTOGRAPH}
        if path not in limits:
            raise Refusal(404, "There is no such page.")
        body = self._body(limits[path])
        with self.server.one_at_a_time():
            if self._left():
                raise ConnectionAbortedError
            answer = self._draw(body) if path == "/draw" else self._map_of(body)
        return json.dumps(answer).encode(), "application/json"

    def _draw(self, body: bytes) -> dict[str, Any]:
        return self.server.studio.draw(body.decode(errors="replace"))

    def _map_of(self, body: bytes) -> dict[str, Any]:
        text = parse_qs(urlsplit(self.path).query).get("ratio", [""])[0]
        return {"map": self.server.studio.map_of(body, text)}

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refusal(411, "The request does not say its length.")
        if len(length) > 12 or int(length) > most:
            raise Refusal(413, f"The request is larger than {most // 2**10} KiB.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError
        return body

    def _left(self) -> bool:
        """Whether the browser has gone away while it waited, as at a reload."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _reply(self, answer: Callable[[str], tuple[bytes, str]]) -> None:
        status = 200
        try:
            self._check_site()
            body, kind = answer(urlsplit(self.path).path)
        except (ConnectionError, TimeoutError):
            raise
        except Refusal as refusal:
            status, sentence = refusal.status, refusal.sentence
        except UserError as error:
            status, sentence = 400, str(error)
        except Exception as error:
            status, sentence = 500, "This failed: the terminal of `d2it app` says why."
            if is_out_of_memory(error):
                sentence = "The GPU's memory is full: see with nvidia-smi what else computes there."
            else:
                traceback.print_exc()
        if status != 200:
            body, kind = json.dumps({"error": _short(sentence)}).encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _check_site(self) -> None:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not self.server.knows(host) or origin not in (None, f"http://{host}"):
            raise Refusal(403, f"Only pages of {self.server.address} may ask this.")

    def log_message(self, *_: object) -> None:
        pass


def _short(sentence: str) -> str:
    """Without the middle of what was sent, where it is long."""
    half = SENTENCE // 2
    return sentence if len(sentence) <= SENTENCE else f"{sentence[:half]} … {sentence[-half:]}"
