"""A whole answer as JSON. msgspec writes a large one ten times as fast as the standard library, and
meanwhile nobody else is served.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web


def answer(document: Any) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, content_type="application/json", charset="utf-8")
