"""A request's body: read in bounded time, then validated."""

from __future__ import annotations

import asyncio

from aiohttp import web

from openinference_engine.errors import BodyTooSlow, RequestError
from openinference_engine.server.state import STATE
from openinference_engine.server.validation import RequestType, parse


async def read(request: web.Request, kind: type[RequestType]) -> RequestType:
    """Raises RequestError naming field, value and remedy, or BodyTooSlow."""
    seconds = request.app[STATE].server.client_timeout_seconds
    try:
        async with asyncio.timeout(seconds):
            body = await request.read()
    except TimeoutError as error:
        raise BodyTooSlow(
            f"the body did not arrive within {seconds:g} s; send it at once"
        ) from error
    except web.RequestPayloadError as error:
        raise RequestError(
            "the body is not what its headers say; check Content-Encoding and Transfer-Encoding"
        ) from error
    return parse(body, kind)
