"""An engine that does what a real one does only on a bad day, and the scripts it does it by."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from builders import TOKEN


@dataclass
class PlayedEngine:
    """Answers each POST with the next of `scripts`, or with `usual` when they are used up."""

    address: str = ""
    load: dict = field(
        default_factory=lambda: {"ready": True, "seats": 4, "running": 0, "resumeKey": "k"}
    )
    scripts: list[Callable] = field(default_factory=list)
    usual: Callable | None = None
    is_silent: bool = False
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    num_open: int = 0

    async def report(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-openinference-token") != TOKEN:
            return web.Response(status=401)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            if not self.is_silent:
                data = json.dumps(self.load)
                await response.write(f"event: load\ndata: {data}\n\n".encode())
            await asyncio.sleep(0.05)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        script = self.scripts.pop(0) if self.scripts else self.usual
        self.num_open += 1
        try:
            return await script(request)
        finally:
            self.num_open -= 1


# Scripts: what it answers to one request.


def chunk(text: str, token_id: int | None = None, finish: str | None = None) -> bytes:
    fields = {
        "id": "chatcmpl-1",
        "created": 1,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }
    if token_id is not None:
        fields["openinference"] = {"token_ids": {"0": [token_id]}}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


async def whole(request: web.Request) -> web.Response:
    return web.json_response({"id": "x", "seed": (await request.json())["seed"]})


def says(*parts: bytes, then=None):
    """A stream of `parts`; `then` may cut it or stall."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then is not None:
            await then(request)
        return response

    return script


async def cut(request: web.Request) -> None:
    request.transport.abort()


async def stall(_: web.Request) -> None:
    await asyncio.sleep(60)


async def cut_before_the_status(request: web.Request) -> web.Response:
    request.transport.abort()
    return web.Response()


async def cut_inside_the_headers(request: web.Request) -> web.Response:
    request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev")
    request.transport.close()
    return web.Response()


async def not_http(request: web.Request) -> web.Response:
    request.transport.write(b"220 mail.example.com ESMTP\r\n\r\n")
    return web.Response()


async def cut_inside_the_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id"')
    request.transport.abort()
    return response


def answers(status: int, document: object):
    async def script(_: web.Request) -> web.Response:
        return web.json_response(document, status=status)

    return script


DONE = b"data: [DONE]\n\n"


COMPLETE = says(chunk("Hi", 5), chunk("!", 6, "stop"), DONE)


def speaks(token_seconds: float, num_tokens: int):
    """A stream of so many tokens at an even pace."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(num_tokens):
            await response.write(chunk(" x", number))
            await asyncio.sleep(token_seconds)
        await response.write(chunk("", num_tokens, "stop") + DONE)
        return response

    return script
