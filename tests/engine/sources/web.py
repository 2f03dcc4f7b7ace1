"""A web server of models that cuts, stalls and asks for credentials on request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType


class Web:
    """A web server over files in memory. It counts what it sends, and cuts on request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.knows_ranges = True
        self.cuts: list[int] = []  # each answer takes one: so many bytes, then the line is cut
        self.stalls_from: int | None = None  # ranges that begin here or later never arrive
        self.authorization: str | None = None
        self.redirects: dict[str, str] = {}  # path → where it is instead
        self.fails_by: int | None = None  # the status of every range that is asked for
        self.bytes_sent = 0
        self.answers: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that are killed hang up
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def send(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        with self._lock:
            cut = self.cuts.pop(0) if self.cuts and request.command == "GET" else None
        for start in range(0, len(content), 1 << 14):
            if cut is not None and start >= cut:
                request.close_connection = True
                return
            piece = content[start : start + (1 << 14)]
            request.wfile.write(piece)
            with self._lock:
                self.bytes_sent += len(piece)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(sends_body=False)

            def do_GET(self) -> None:
                self._answer(sends_body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, sends_body: bool) -> None:
                path = self.path.partition("?")[0]
                if place := web.redirects.get(path):
                    self._head(302, 0, {"Location": place})
                    return
                content = web.files.get(path)
                if web.authorization and self.headers["Authorization"] != web.authorization:
                    self._head(401, 0)
                    return
                if content is None:
                    self._head(404, 0)
                    return
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
                if asked and web.fails_by:
                    self._head(web.fails_by, 0)
                    return
                if asked and web.knows_ranges:
                    if web.stalls_from is not None and int(asked[1]) >= web.stalls_from:
                        time.sleep(60)
                    content = content[int(asked[1]) : int(asked[2]) + 1]
                web.answers.append(f"{self.command} {path}")
                self._head(206 if asked and web.knows_ranges else 200, len(content))
                if sends_body:
                    web.send(self, content)

            def _head(
                self, status: int, num_bytes: int, headers: Mapping[str, str] = MappingProxyType({})
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(num_bytes))
                for name, value in [*web.headers.items(), *headers.items()]:
                    self.send_header(name, value)
                self.end_headers()

        return Handler
