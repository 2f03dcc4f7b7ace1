"""What a client may ask about the API itself: its version, and its description as OpenAPI.

The description is an engine's own, made there from the types that validate requests, without the
paths that this port does not answer.
"""

from collections.abc import Collection
from importlib.metadata import version

import aiohttp
import msgspec
from aiohttp import web

from openinference_router.errors import unavailable
from openinference_router.group import Group
from openinference_router.router import Router
from openinference_router.wire import TOKEN_HEADER

VERSION = version("openinferencev2")

_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Documents:
    """Adds its routes to the client port."""

    def __init__(self, router: Router, session: aiohttp.ClientSession, token: str | None) -> None:
        self._router = router
        self._session = session
        self._headers = {TOKEN_HEADER: token} if token else {}

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/version", self.version), web.get("/openapi.json", self.openapi)]

    async def version(self, _: web.Request) -> web.Response:
        return _json(_encode({"version": VERSION}))

    async def openapi(self, request: web.Request) -> web.Response:
        answered = {resource.canonical for resource in request.app.router.resources()}
        for group in self._admitted():
            try:
                return _json(restrict(await self._described(group), answered))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                continue  # on its way out, most likely; the next one says the same
        raise unavailable("no replica is ready that could describe its API")

    def _admitted(self) -> list[Group]:
        services = self._router.services()
        return [g for each in services for g in each.groups.values() if g.is_admitted]

    async def _described(self, group: Group) -> bytes:
        url = f"{group.routed.address}/openapi.json"
        async with self._session.get(
            url, headers=self._headers, timeout=_TIMEOUT, raise_for_status=True
        ) as response:
            return await response.read()


def restrict(document: bytes, paths: Collection[str]) -> bytes:
    """An OpenAPI document with only these paths. Raises msgspec.DecodeError for what is none."""
    fields = _decode(document)
    described = _decode(fields.get("paths", b"{}"))
    kept = {path: operations for path, operations in described.items() if path in paths}
    return _encode(fields | {"paths": msgspec.Raw(_encode(kept))})


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
