"""Server-sent events: one JSON document per `data:` line."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


async def open_stream(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    """Sends the headers. Proxies are asked not to buffer."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            **headers,
        }
    )
    await response.prepare(request)
    return response


def event(data: Any, name: str | None = None) -> bytes:
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + _encode(data) + b"\n\n"
