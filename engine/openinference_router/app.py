"""The two faces of the router as aiohttp applications: one for clients, one for the cluster.

Handlers are thin. Every answer that is not an engine's is an OpenAI error object or a document of
docs/wire.md, and every client request leaves one line in the access log.
"""

import asyncio
import hmac
import logging

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from openinference_router import sse
from openinference_router.dashboard.pages import PREFIX as DASHBOARD
from openinference_router.errors import INTERNAL, Refusal
from openinference_router.exchange import GENERATING, PASSED_ON
from openinference_router.keys import KeyRing
from openinference_router.metrics import Metrics
from openinference_router.proxy import CALLER, Proxy
from openinference_router.router import Router
from openinference_router.spans import Spans
from openinference_router.trace import CLIENT_GONE, REQUEST_ID_HEADER, TRACE, start_trace
from openinference_router.wire import TOKEN_HEADER, Routing

STATE_MIN_SECONDS = 0.1
STATE_MAX_SECONDS = 1.0

ROUTER = web.AppKey("router", Router)

_access_log = logging.getLogger("access")
_log = logging.getLogger(__name__)


def client_app(
    router: Router,
    proxy: Proxy,
    keys: KeyRing,
    metrics: Metrics,
    max_body_bytes: int,
    spans: Spans | None = None,
) -> web.Application:
    """Port 8080: the OpenAI API; the dashboard adds its own routes."""
    middlewares = [_observing(router, metrics, spans), _admitting(keys)]
    app = web.Application(client_max_size=max_body_bytes, middlewares=middlewares)
    for path in sorted(GENERATING | PASSED_ON):
        app.router.add_post(path, proxy.handle)
    app[ROUTER] = router
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/models/{model:.+}", model)
    return app


def internal_app(
    router: Router, keys: KeyRing, metrics: Metrics, token: str | None
) -> web.Application:
    """Port 8081: what operator, Prometheus and kubelet ask."""
    app = web.Application()

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def ready(_: web.Request) -> web.Response:
        if router.is_draining:
            return web.Response(status=503, text="draining\n")
        if not router.is_synced:
            return web.Response(status=503, text="the routing ConfigMaps were not read yet\n")
        if not keys.is_known:
            return web.Response(status=503, text="the API keys were not read yet\n")
        return web.Response(text="ready\n")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def state(request: web.Request) -> web.StreamResponse:
        given = request.headers.get(TOKEN_HEADER, "")
        if token and not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            return web.Response(status=401, text=f"{TOKEN_HEADER} is missing or wrong\n")
        return await _stream_state(router, request)

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", exposition)
    app.router.add_get("/state", state)
    return app


async def _stream_state(router: Router, request: web.Request) -> web.StreamResponse:
    """At once, on change (at most ten a second), and at least one a second."""
    response = web.StreamResponse(headers=sse.HEADERS)
    await response.prepare(request)
    while True:
        seen = router.version
        await response.write(sse.event(msgspec.json.encode(router.state()), "state"))
        await asyncio.sleep(STATE_MIN_SECONDS)
        await router.change(seen, STATE_MAX_SECONDS - STATE_MIN_SECONDS)


async def models(request: web.Request) -> web.Response:
    """Every model of the namespace, whatever Host was asked."""
    cards = [_model_card(routing) for routing in request.app[ROUTER].models()]
    return _json({"object": "list", "data": cards})


async def model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    for routing in request.app[ROUTER].models():
        if routing.model == name:
            return _json(_model_card(routing))
    raise Refusal(404, f"model '{name}' does not exist", code="model_not_found", parameter="model")


def _model_card(routing: Routing) -> dict[str, object]:
    return {
        "id": routing.model,
        "object": "model",
        "created": int(routing.created_at.timestamp()),
        "owned_by": routing.service,
    }


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _observing(router: Router, metrics: Metrics, spans: Spans | None) -> Middleware:
    """Give each request a trace, log and count its end, and let no exception become a traceback."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        trace = request[TRACE] = start_trace(request.path, request.headers, request.method)
        if spans is not None:
            spans.begin(trace, request.headers)
        try:
            response = await _answer(request, handler)
            trace.code = trace.code or response.status
            if router.is_draining:
                response.force_close()
            return response
        except (asyncio.CancelledError, ConnectionError):
            trace.code = CLIENT_GONE
            raise
        finally:
            metrics.ended(trace)
            if spans is not None:
                spans.end(trace)
            _access_log.info("request", extra=trace.line())

    return observe


def _admitting(keys: KeyRing) -> Middleware:
    """Let in who has a key, while the key has something left."""

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/" or request.path.startswith(DASHBOARD):
            return await handler(request)  # it checks keys where it tells something
        with keys.admit(request.headers.get("Authorization", "")) as admission:
            request[CALLER], trace = admission.caller, request[TRACE]
            trace.key = admission.caller.key
            try:
                return await handler(request)
            finally:
                admission.num_tokens = trace.num_tokens

    return admit


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as error:
        refusal = error
    except web.HTTPException as error:
        refusal = Refusal(error.status, f"{request.method} {request.path}: {error.reason}")
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        if request.writer.output_size > 0:
            raise  # a second answer cannot follow the first; aiohttp logs and closes
        _log.exception("request broke the router", extra={"requestId": request[TRACE].request_id})
        refusal = Refusal(500, "the router failed; its log has the reason", kind=INTERNAL)
    return web.Response(
        status=refusal.status,
        headers={"Content-Type": "application/json", REQUEST_ID_HEADER: request[TRACE].request_id}
        | refusal.headers(),
        body=refusal.body(),
    )
