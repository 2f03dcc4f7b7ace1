"""The dashboard over HTTP: its files to anybody, what it shows only to holders of a key.

Files hold nothing secret, and a browser opening a page cannot send a key; the page asks for it and
sends it along with every read. Headers keep the page from loading, or being loaded by, anything
else: there is no inline script or style, no foreign origin, and no HTML made from strings.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources

import msgspec
from aiohttp import web

from openinference_router import sse
from openinference_router.dashboard.cluster import ClusterView
from openinference_router.dashboard.overview import build_overview
from openinference_router.errors import Refusal, overloaded
from openinference_router.keys import KeyRing
from openinference_router.router import Router

PREFIX = "/dashboard"
MAX_VIEWERS = 32
MIN_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 1.0

_CONTENT_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "json": "application/json",
    "svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: str
    etag: str


class Dashboard:
    """Routes below PREFIX; the page names its parts relatively, so it works behind any prefix."""

    def __init__(
        self,
        router: Router,
        keys: KeyRing,
        view: ClusterView,
        history_document: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._router = router
        self._keys = keys
        self._view = view
        self._history_document = history_document
        self._num_viewers = 0
        self._files = _load_files()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", _to("dashboard/")),
            web.get(PREFIX, _to("dashboard/")),
            web.get(PREFIX + "/", self.file),
            web.get(PREFIX + "/{name:[a-z]+[.][a-z]+}", self.file),
            web.get(PREFIX + "/api/overview", self.overviews),
            web.get(PREFIX + "/api/history", self.history),
        ]

    async def file(self, request: web.Request) -> web.Response:
        """One of the page's files, revalidated at each load: a new router brings a new page."""
        file = self._files.get(request.match_info.get("name", "index.html"))
        if file is None:
            raise Refusal(404, f"there is no {request.path}")
        headers = SECURITY_HEADERS | {"Cache-Control": "no-cache", "ETag": file.etag}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        response = web.Response(
            body=file.body, content_type=file.content_type, charset="utf-8", headers=headers
        )
        response.enable_compression()
        return response

    async def history(self, request: web.Request) -> web.Response:
        self._check(request)
        response = web.Response(
            body=await self._history_document(),
            content_type="application/json",
            headers=SECURITY_HEADERS,
        )
        response.enable_compression()
        return response

    async def overviews(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: an overview at once and after each change, while the router stays."""
        self._check(request)
        if self._num_viewers >= MAX_VIEWERS:
            raise overloaded(f"{MAX_VIEWERS} dashboards are open already", code="too_many_viewers")
        response = web.StreamResponse(headers=sse.HEADERS | SECURITY_HEADERS)
        await response.prepare(request)
        self._num_viewers += 1
        try:
            async with self._view.opened():
                await self._tell(request, response)
        except Refusal:
            pass  # the key was withdrawn meanwhile
        finally:
            self._num_viewers -= 1
        return response

    async def _tell(self, request: web.Request, response: web.StreamResponse) -> None:
        told = b""
        while not self._router.is_draining:
            self._check(request)
            seen = self._router.version
            overview = self._overview()
            await response.write(sse.COMMENT if overview == told else sse.event(overview))
            told = overview
            await asyncio.sleep(MIN_PAUSE_SECONDS)
            await self._router.change(seen, MAX_PAUSE_SECONDS)

    def _overview(self) -> bytes:
        state = self._router.state()
        return msgspec.json.encode(
            build_overview(
                namespace=self._view.namespace,
                router=state.router,
                trouble=self._view.trouble,
                routed=self._router.services(),
                declared=self._view.services,
                events=self._view.events,
            )
        )

    def _check(self, request: web.Request) -> None:
        self._keys.check(request.headers.get("Authorization", ""))


def _to(place: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": place})

    return redirect


def _load_files() -> dict[str, _File]:
    """The files of `static/`, read once: there are few, and a pod's disk may be slow."""
    files = {}
    for path in resources.files(__package__).joinpath("static").iterdir():
        content_type = _CONTENT_TYPES.get(path.name.rpartition(".")[2])
        if content_type is not None:
            body = path.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:16]
            files[path.name] = _File(body, content_type, f'"{digest}"')
    return files
