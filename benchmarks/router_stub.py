"""What the router's benchmark needs around it: an engine that replays timing, and a routing API.

    python -m benchmarks.router_stub PORT

One process plays both: `/load` and `/v1/chat/completions` as an engine speaks them, and the list
and watch of one routing ConfigMap. Times between events are those of SmolLM2 on two CPU cores
(decode at 100 tokens/s); a request may ask for others in its `user` field.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web
from aiohttp.typedefs import Handler

FIRST_EVENT_SECONDS = 0.020
EVENT_SECONDS = 0.010
EVENTS = 4
MANY_SEATS = 100_000


def chunk(number: int) -> bytes:
    document = {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "stub",
        "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}],
        "openinference": {"token_ids": {"0": [number]}},
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"


async def completions(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    first, between, events = json.loads(
        asked.get("user") or json.dumps([FIRST_EVENT_SECONDS, EVENT_SECONDS, EVENTS])
    )
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.sleep(first)
    for number in range(events):
        await response.write(chunk(number))
        await asyncio.sleep(between)
    await response.write(b"data: [DONE]\n\n")
    return response


async def load(request: web.Request) -> web.StreamResponse:
    report = json.dumps({"ready": True, "seats": MANY_SEATS, "resumeKey": "stub"})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(f"event: load\ndata: {report}\n\n".encode())
        await asyncio.sleep(1)


def configmaps(port: int) -> Handler:
    group = {"id": "stub-0", "revision": "0", "address": f"http://127.0.0.1:{port}"}
    routing = {
        "service": "stub",
        "model": "stub",
        "generation": 1,
        "createdAt": "2026-01-01T00:00:00Z",
        "groups": [{**group, "state": "Active"}],
    }
    item = {"metadata": {"name": "stub-routing"}, "data": {"routing.json": json.dumps(routing)}}

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch", "").lower() == "true":
            await asyncio.sleep(3600)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [item]})

    return handle


def main() -> None:
    port = int(sys.argv[1])
    app = web.Application()
    app.router.add_post("/v1/chat/completions", completions)
    app.router.add_get("/load", load)
    app.router.add_get("/api/v1/namespaces/bench/configmaps", configmaps(port))
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
