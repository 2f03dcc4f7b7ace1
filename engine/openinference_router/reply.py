"""The client's side of one exchange: nothing is sent until there is something to say.

A whole answer goes out with its own status. A stream begins with its first event, or with a
comment while it waits; after that the status is spoken for, and an error becomes an event.
"""

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web

from openinference_router import sse
from openinference_router.errors import Refusal

MAX_CLIENT_PAUSE_SECONDS = 60.0
"""A client that takes nothing for so long holds a seat for nothing."""

AT_ONCE_BYTES = 32 * 1024
"""An empty transport takes so much without a pause: half of asyncio's high-water mark."""


class Reply:
    """Answers `request` once; the handler returns `response`."""

    def __init__(self, request: web.Request, headers: dict[str, str]) -> None:
        self._request = request
        self.headers = headers
        """Sent with the first byte, so they may be added to until then."""
        self._stream: web.StreamResponse | None = None
        self._whole: web.Response | None = None

    @property
    def response(self) -> web.StreamResponse:
        """What was answered. Raises RuntimeError before `whole`, `write` or `refuse`."""
        response = self._stream or self._whole
        if response is None:
            raise RuntimeError("the request was never answered")
        return response

    async def keep_alive(self) -> None:
        await self.write(sse.COMMENT)

    async def write(self, events: bytes) -> None:
        """Send events of a stream; waits while the client reads slowly.

        Raises ConnectionError when the client has gone or has stopped reading.
        """
        if self._stream is None:
            self._stream = web.StreamResponse(headers=self.headers | sse.HEADERS)
            await self._stream.prepare(self._request)
        if len(events) < AT_ONCE_BYTES and self._is_client_keeping_up:
            await self._stream.write(events)  # cannot block, so it needs no timer
        else:
            await self._write_in_time(self._stream, events)

    @property
    def _is_client_keeping_up(self) -> bool:
        """The kernel has taken everything so far."""
        transport = self._request.transport
        return transport is None or not transport.get_write_buffer_size()

    async def _write_in_time(self, stream: web.StreamResponse, events: bytes) -> None:
        try:
            async with asyncio.timeout(MAX_CLIENT_PAUSE_SECONDS):
                await stream.write(events)
        except TimeoutError as error:
            self._hang_up()
            raise ConnectionResetError("the client stopped reading") from error

    def _hang_up(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def end(self) -> None:
        """The stream is whole."""
        if self._stream is not None:
            await self._stream.write_eof()

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer with an engine's own response."""
        if self._stream is None:
            self._whole = web.Response(
                status=status, headers={**self.headers, **headers}, body=body
            )
        else:
            await self.write(sse.event(_one_line(body)) + sse.event(sse.DONE))
            await self.end()

    async def refuse(self, refusal: Refusal) -> None:
        headers = {"Content-Type": "application/json", **refusal.headers()}
        await self.whole(refusal.status, headers, refusal.body())


def _one_line(body: bytes) -> bytes:
    """JSON without line breaks; what is not JSON becomes a JSON string."""
    try:
        return msgspec.json.format(body, indent=-1)
    except msgspec.DecodeError:
        return msgspec.json.encode(body.decode(errors="replace"))
