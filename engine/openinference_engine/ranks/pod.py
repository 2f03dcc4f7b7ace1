"""A worker pod: ranks alone, and a process that answers probes and scrapes for them.

It passes SIGTERM on.

Exit codes: 0 the group has drained, 1 it has ended otherwise, 2 a rank could not start.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST as TEXT_FORMAT
from prometheus_client import CollectorRegistry, generate_latest

from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.errors import EXIT_CANNOT_START, EXIT_RANK_LOST
from openinference_engine.ranks.local import LocalRanks
from openinference_engine.ranks.metrics import RankMetrics
from openinference_engine.server import door

_LOOK_SECONDS = 0.1
_MARGIN_SECONDS = 10.0  # after the group's drain, for rank 0 to end it

log = logging.getLogger("openinference.ranks")


async def serve_pod(server: ServerConfig, engine: EngineConfig) -> int:
    """Until the first rank ends; returns the exit code."""
    with TemporaryDirectory(prefix="openinference-ranks-") as folder:
        ranks = LocalRanks(engine, engine.group.rendezvous or "", Path(folder))
        try:
            async with door.opened(_app(server, ranks), server.host, server.port):
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, ranks.terminate)
                return await _watch(ranks, server.drain_timeout_seconds + _MARGIN_SECONDS)
        finally:
            ranks.kill()


async def _watch(ranks: LocalRanks, drain_seconds: float) -> int:
    """The exit code of the first rank that ends, which is the others' end too."""
    while (code := ranks.exit_code()) is None:
        await asyncio.sleep(_LOOK_SECONDS)
        if reason := ranks.trouble():
            log.error("a rank hangs", extra={"fields": {"reason": reason}})
            return EXIT_RANK_LOST
        if ranks.seconds_leaving > drain_seconds:
            log.warning("the group did not drain in time")
            return 0
    log.info("ranks ended", extra={"fields": {"exit_code": code}})
    return code if code in (0, EXIT_CANNOT_START) else EXIT_RANK_LOST


def _app(server: ServerConfig, ranks: LocalRanks) -> web.Application:
    registry = CollectorRegistry()
    registry.register(RankMetrics(server, ranks.states))

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"content-type": TEXT_FORMAT})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def ready(request: web.Request) -> web.Response:
        if ranks.seconds_leaving:
            return web.json_response({"ready": False, "reason": "shutting down"}, status=503)
        if not ranks.are_ready:
            return web.json_response({"ready": False, "reason": "ranks are loading"}, status=503)
        return web.json_response({"ready": True})

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app
