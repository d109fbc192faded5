"""A file server on loopback that fails in the ways that real ones do."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut` bytes into an answer the connection breaks, `down` answers 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []  # one entry is used up by each answer
        self.down = False
        self.ranges = True
        self.stall: Event | None = None  # keeps connections open
        self.raw: dict[str, Iterable[bytes]] = {}  # whole answers, sent as long as somebody reads
        self.claimed: int | None = None  # a Content-Length that is not true
        self.asked: list[tuple[str, str | None]] = []  # path and Range of every request

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path in self.server.raw:
            self.close_connection = True
            with suppress(OSError):
                for block in self.server.raw[self.path]:
                    self.wfile.write(block)
            return
        content = self.server.files.get(self.path)
        if content is None or self.server.down:
            self.send_error(404 if content is None else 503)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start and not self.server.ranges:
            start = 0
        if start > len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(self.server.claimed or len(content) - start))
        self.end_headers()
        end = start + self.server.cut.pop(0) if self.server.cut else len(content)
        self.wfile.write(content[start:end])
        if self.server.stall:
            self.server.stall.wait(30)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the test has ended."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
