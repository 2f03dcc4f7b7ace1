"""Answers over HTTP, streamed and timed: what chat, run and bench are made of.

aiohttp takes a quarter of a second to import, so it is imported where a request is made.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openinferencev2.endpoint import Endpoint
from openinferencev2.errors import CommandError, Exit

if TYPE_CHECKING:
    import aiohttp

Json = dict[str, Any]


class RequestFailed(CommandError):
    """The endpoint refused or broke off. `status` is 0 when there was no answer at all."""

    def __init__(self, message: str, status: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status


@dataclass(slots=True)
class Reply:
    """One answer, streamed; moments on the monotonic clock, None before they happened.

    `group` is the replica that answered, empty where an engine was asked without a router.
    """

    asked_at: float = field(default_factory=time.monotonic)
    text: str = ""
    finish_reason: str | None = None
    usage: Json = field(default_factory=dict)
    first_at: float | None = None
    last_at: float | None = None
    group: str = ""

    @property
    def num_tokens(self) -> int:
        return int(self.usage.get("completion_tokens", 0))

    @property
    def first_token_seconds(self) -> float | None:
        return None if self.first_at is None else self.first_at - self.asked_at

    @property
    def seconds_per_token(self) -> float | None:
        """Mean over the tokens after the first; None with fewer than two."""
        if self.first_at is None or self.last_at is None or self.num_tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.num_tokens - 1)

    @property
    def tokens_per_second(self) -> float | None:
        return 1 / self.seconds_per_token if self.seconds_per_token else None


def open_session(endpoint: Endpoint) -> aiohttp.ClientSession:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(headers=endpoint.headers, connector=connector, timeout=timeout)


async def model_of(session: aiohttp.ClientSession, endpoint: Endpoint) -> str:
    """The model that is served there. Raises CommandError when there is none, or a choice."""
    if endpoint.model:
        return endpoint.model
    async with _opened(session.get(f"{endpoint.url}/v1/models")) as response:
        names = [card["id"] for card in (await response.json())["data"]]
    if len(names) == 1:
        return str(names[0])
    known = ", ".join(names) or "none"
    raise CommandError("which model is not clear", f"say --model; there: {known}", Exit.USAGE)


async def stream(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    path: str,
    body: Json,
    hear: Callable[[str], None] = lambda _: None,
) -> Reply:
    """Ask and call `hear` with each piece of text as it comes. Raises RequestFailed."""
    reply = Reply()
    async with contextlib.aclosing(pieces(session, endpoint, path, body, reply)) as heard:
        async for piece in heard:
            hear(piece)
    return reply


async def pieces(
    session: aiohttp.ClientSession, endpoint: Endpoint, path: str, body: Json, reply: Reply
) -> AsyncGenerator[str, None]:
    """Ask, and give each piece of text as it comes into `reply`. Raises RequestFailed."""
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    async with _opened(session.post(endpoint.url + path, json=asked)) as response:
        reply.group = response.headers.get("x-openinference-group", "")
        async for chunk in _chunks(response):
            for piece in _absorb(reply, chunk):
                yield piece


async def ask(session: aiohttp.ClientSession, endpoint: Endpoint, path: str, body: Json) -> Json:
    """A whole answer. Raises RequestFailed."""
    async with _opened(session.post(endpoint.url + path, json=body)) as response:
        found: Json = await response.json()
        return found


def _absorb(reply: Reply, chunk: Json) -> Iterator[str]:
    if "error" in chunk:
        raise RequestFailed(chunk["error"]["message"], status=200)
    reply.usage = chunk.get("usage") or reply.usage
    for choice in chunk["choices"]:
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
        piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        if piece:
            reply.last_at = time.monotonic()
            reply.first_at = reply.first_at or reply.last_at
            reply.text += piece
            yield piece


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """Raises RequestFailed when the stream ends before it says so."""
    async for line in response.content:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise RequestFailed("the stream was cut", remedy="ask again")


@contextlib.asynccontextmanager
async def _opened(
    request: AbstractAsyncContextManager[aiohttp.ClientResponse],
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer with status 200; everything else becomes RequestFailed."""
    import aiohttp

    try:
        async with request as response:
            if response.status != 200:
                text = await response.text()
                remedy = _remedy(response.status, response.headers.get("Retry-After"))
                raise RequestFailed(_message(response.status, text), response.status, remedy)
            yield response
    except (aiohttp.ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise RequestFailed(
            f"nobody answers: {reason}", remedy="check --url, or that the service runs"
        ) from error


def _message(status: int, text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {status}: {text[:200]}"


def _remedy(status: int, retry_after: str | None) -> str:
    if status == 401:
        return "set OPENINFERENCE_API_KEY"
    return f"try again in {retry_after} s" if retry_after else ""
