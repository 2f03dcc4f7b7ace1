"""One attempt at an engine, as far as the wire can show it."""

import aiohttp
import pytest
from aiohttp import web
from openinference_router.errors import AttemptFailed
from openinference_router.upstream import open_upstream


async def speak_and_break(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: one\n\ndata: two\n\ndata: th")
    request.transport.abort()
    return response


async def test_what_arrived_before_a_connection_broke_is_read(play, until):
    """The HTTP library forgot it, so attempts that had brought tokens counted as got nowhere."""
    engine = await play(usual=speak_and_break)
    async with aiohttp.ClientSession() as session:
        upstream = await open_upstream(session, f"{engine.address}/x", {}, b"{}")
        await until(lambda: upstream._response.content.exception() is not None)
        assert await upstream.events() == [b"one", b"two"]
        with pytest.raises(AttemptFailed, match="cut its stream"):
            await upstream.events()
        upstream.close()
