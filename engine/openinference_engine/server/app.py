"""The aiohttp application: routes, middlewares and the small endpoints.

Every refusal becomes an OpenAI error object here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from openinference_engine.errors import BodyTooLarge, RequestError, Unauthorized
from openinference_engine.server import embeddings, load, openai, openapi, tokens
from openinference_engine.server.state import STATE, ServerState
from openinference_engine.server.style import error_body
from openinference_engine.version import VERSION

TOKEN_HEADER = "x-openinference-token"  # noqa: S105 - the header's name
_OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
_RETRY_AFTER_SECONDS = 1
_CLIENT_GONE = 499  # as nginx numbers it

log = logging.getLogger("openinference.server")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(state: ServerState) -> web.Application:
    app = web.Application(
        middlewares=[request_ids, errors, token],
        client_max_size=state.server.max_body_bytes,
    )
    app[STATE] = state
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, handler)
    return app


@web.middleware
async def request_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer carries the request's id, the client's own or a new one."""
    request["request_id"] = request.headers.get("x-request-id", secrets.token_hex(8))[:128]
    response = await handler(request)
    if not response.prepared:
        response.headers["X-Request-Id"] = request["request_id"]
    return response


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every refusal into an OpenAI error object; nothing leaves as a traceback."""
    try:
        return await handler(request)
    except RequestError as error:
        return _refusal(error)
    except web.HTTPRequestEntityTooLarge:
        limit = request.app[STATE].server.max_body_bytes
        return _refusal(BodyTooLarge(f"the body exceeds {limit} bytes; shorten it"))
    except web.HTTPException as error:
        refusal = RequestError(f"{request.method} {request.path}: {error.reason.lower()}")
        return _refusal(refusal, error.status)
    except ConnectionError:
        return web.Response(status=_CLIENT_GONE)  # nobody is left to read it
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("request failed", extra={"fields": {"path": request.path}})
        failure = RequestError("the server failed on this request; its log says why")
        failure.kind = "server_error"
        return _refusal(failure, 500)


@web.middleware
async def token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """With a token configured, nothing but health and metrics answers without it."""
    expected = request.app[STATE].server.token
    if expected is not None and request.path not in _OPEN_PATHS:
        given = request.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode()):
            raise Unauthorized(f"the header {TOKEN_HEADER} is missing or wrong")
    return await handler(request)


def _refusal(error: RequestError, status: int | None = None) -> web.Response:
    response = web.json_response(error_body(error), status=status or error.status)
    if response.status in (429, 503):
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return response


async def health(request: web.Request) -> web.Response:
    """The process is alive and its core has not died."""
    has_ended = request.app[STATE].core.has_ended
    return web.json_response({"alive": not has_ended}, status=503 if has_ended else 200)


async def ready(request: web.Request) -> web.Response:
    """Requests can be answered now: a step or self-probe finished recently."""
    reason = request.app[STATE].unready_reason
    if reason is None:
        return web.json_response({"ready": True})
    return web.json_response({"ready": False, "reason": reason}, status=503)


async def metrics(request: web.Request) -> web.Response:
    body = request.app[STATE].metrics.render()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})


async def version(request: web.Request) -> web.Response:
    return web.json_response({"version": VERSION})


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/chat/completions", openai.chat_completions),
    ("POST", "/v1/completions", openai.completions),
    ("POST", "/v1/embeddings", embeddings.embeddings),
    ("GET", "/v1/models", openai.models),
    ("POST", "/tokenize", tokens.tokenize),
    ("POST", "/detokenize", tokens.detokenize),
    ("GET", "/load", load.load),
    ("GET", "/health", health),
    ("GET", "/ready", ready),
    ("GET", "/metrics", metrics),
    ("GET", "/version", version),
    ("GET", "/openapi.json", openapi.openapi),
)
