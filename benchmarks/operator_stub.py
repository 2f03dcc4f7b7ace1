"""One stub that answers for every engine of a scale test: ready, idle, its group's name from Host.

    python -m benchmarks.operator_stub --port 8000

It speaks only what routers ask of an engine at rest: `GET /load` (docs/wire.md), one event at once
and one a second. Pods that no node runs have addresses that all lead here.
"""

import argparse
import asyncio
import json

from aiohttp import web

HEARTBEAT_SECONDS = 1.0


async def load(request: web.Request) -> web.StreamResponse:
    """Stream the load of the group that the Host header names: `<group>-0.<service>-groups…`."""
    group = request.host.split(".")[0].removesuffix("-0")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    event = f"event: load\ndata: {json.dumps(_idle(group))}\n\n".encode()
    while True:
        await response.write(event)
        await asyncio.sleep(HEARTBEAT_SECONDS)


def _idle(group: str) -> dict[str, object]:
    return {
        "group": group,
        "model": group.rsplit("-", 2)[0],
        "ready": True,
        "draining": False,
        "stepAgeSeconds": 0.01,
        "seats": 8,
        "running": 0,
        "waiting": 0,
        "queuedTokens": 0,
        "kvUsage": 0.0,
        "prefillTokensPerSecond": 1000.0,
        "decodeTokensPerSecond": 100.0,
        "resumeKey": "stub",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    app = web.Application()
    app.router.add_get("/load", load)
    web.run_app(app, port=parser.parse_args().port, access_log=None, print=None)


if __name__ == "__main__":
    main()
