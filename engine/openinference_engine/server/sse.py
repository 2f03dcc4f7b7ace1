"""Server-sent events: one JSON document per `data:` line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
from aiohttp import web

from openinference_engine.server.state import STATE

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def event(data: Any, name: str | None = None) -> bytes:
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + _encode(data) + b"\n\n"


class EventStream:
    """Events for one client, who may vanish (ConnectionError) or read too slowly."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._timeout_seconds = request.app[STATE].server.client_timeout_seconds

    @classmethod
    async def open(cls, request: web.Request, headers: dict[str, str]) -> EventStream:
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
        return cls(request, response)

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError if the client is gone, or has not read for too long: then its
        connection is cut, and with it ends its request.
        """
        await self._in_time(self._response.write(data))

    async def end(self) -> web.StreamResponse:
        """Raises ConnectionError as `send` does."""
        await self._in_time(self._response.write_eof())
        return self._response

    async def _in_time(self, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await writing
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client reads too slowly") from error
