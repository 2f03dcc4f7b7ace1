"""The small things that every test of the router needs."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web
from openinference_router.door import make_runner
from openinference_router.wire import QueuePolicy, RoutedGroup, Routing

TOKEN = "test-token"  # noqa: S105


def make_routing(*groups: RoutedGroup, **changes) -> Routing:
    """Service `demo` with model `smollm2`."""
    fields = {
        "service": "demo",
        "model": "smollm2",
        "generation": 1,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "queue": QueuePolicy(max_requests=100),
    }
    return Routing(groups=groups, **{**fields, **changes})


def make_routed(address: str, name: str = "demo-1a2b3c4d-0", **changes) -> RoutedGroup:
    fields = {"revision": "1a2b3c4d", "state": "Active"}
    return RoutedGroup(id=name, address=address, **{**fields, **changes})


async def until(claim: Callable[[], bool]) -> None:
    """Wait until `claim()` is true; it must be so within two minutes."""
    async with asyncio.timeout(120):
        while True:
            if claim():
                return
            await asyncio.sleep(0.01)


async def listen(stack: contextlib.AsyncExitStack, app: web.Application, port: int) -> None:
    runner = make_runner(app, 0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", port).start()
