"""A web server on this machine that gives slides, as well as a bad one does."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class SlideServer:
    """Gives the files of `folder`. What it does wrong is set from outside, also while it serves."""

    folder: Path
    url: str = ""
    ranges: bool = True  # False: every answer is the whole file
    length: bool = True  # False: it does not say how long files are
    head: bool = True  # False: 403, as where a URL is signed for GET
    status: dict[str, int] = field(default_factory=dict)  # by name, in place of the file
    drops: Callable[[str, int], bool] = lambda name, start: False  # by name and first byte: half an answer, then none
    holds: dict[str, threading.Event] = field(default_factory=dict)  # by name: a GET is answered once it is set
    etag: str = '"one"'
    sent: int = 0  # bytes of files
    asked: list[str] = field(default_factory=list)  # method, path with query, range

    def at(self, name: str, query: str = "") -> str:
        return f"{self.url}/{name}{query}"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[SlideServer]:
    shared = SlideServer(folder)

    class Handler(_Handler):
        server_state = shared

    httpd = _Quiet(("127.0.0.1", 0), Handler)
    shared.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield shared
    finally:
        for event in shared.holds.values():
            event.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(
        self, request: object, client_address: object
    ) -> None: ...  # readers go when they have seen enough


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: SlideServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if (event := self.server_state.holds.get(self._name())) is not None:
            event.wait(60)
        self._answer(body=True)

    def _name(self) -> str:
        return urlsplit(self.path).path.lstrip("/")

    def _answer(self, *, body: bool) -> None:
        state, name = self.server_state, self._name()
        state.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        path = state.folder / name
        status = state.status.get(name, 200 if path.is_file() else 404)
        if not (state.head or body):
            status = 403
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, start, code = path.read_bytes(), 0, 200
        whole = len(data)
        if state.ranges and (asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            start, code = int(asked[1]), 206
            data = data[start : int(asked[2]) + 1]
        self.send_response(code)
        self.send_header("ETag", state.etag)
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{whole}")
        if state.length:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self._send(data, cut=state.drops(name, start))

    def _send(self, data: bytes, *, cut: bool) -> None:
        if cut:
            data, self.close_connection = data[: len(data) // 2], True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a reader that has seen enough
            self.wfile.write(data)
            self.server_state.sent += len(data)

    def log_message(self, format: str, *args: object) -> None: ...
