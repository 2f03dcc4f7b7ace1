"""Streams of events: what becomes of a client who reads nothing."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import cast

from aiohttp import web
from openinference_engine.config import ServerConfig
from openinference_engine.server.sse import EventStream
from openinference_engine.server.state import STATE, ServerState


async def test_client_who_does_not_read_the_end_is_cut_off() -> None:
    """What fits below the limit of aiohttp's writer was not waited for, but the end was, for ever:
    its seats never came back.
    """
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.set_write_buffer_limits(high=0)  # type: ignore[attr-defined]
        events = await EventStream.open(request, {})
        await events.send(b"x" * 60_000)
        try:
            return await events.end()
        except ConnectionError as error:
            ended.set_result(str(error))
            raise

    app = web.Application()
    server = ServerConfig(client_timeout_seconds=0.1)
    app[STATE] = cast(ServerState, SimpleNamespace(server=server))
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    listener = small_socket()
    listener.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    try:
        with small_socket() as client:
            client.connect(listener.getsockname())
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.wait_for(ended, 30) == "the client reads too slowly"
    finally:
        await runner.cleanup()


def small_socket() -> socket.socket:
    """One that holds little of what is not read; connections inherit it."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return end
