"""The life of the server process: HTTP first, then the model; drain on SIGTERM; end with the core.

Exit codes: 0 drained, 1 the core died, 2 the engine could not start.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import PurePosixPath

from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.core.spawned import SpawnedCore
from openinference_engine.errors import EXIT_CANNOT_START
from openinference_engine.server import door
from openinference_engine.server.app import build_app
from openinference_engine.server.front import load_front
from openinference_engine.server.metrics import Metrics
from openinference_engine.server.state import ServerState
from openinference_engine.server.tracing import Tracing

EXIT_CORE_DIED = 1
_FAREWELL_SECONDS = 0.5  # for error answers to leave after the core died

log = logging.getLogger("openinference.server")


async def serve(server: ServerConfig, engine: EngineConfig) -> int:
    """Listens until SIGTERM or until the core ends; returns the exit code.

    Raises StartError if the address is taken or the model cannot be loaded.
    """
    state = _make_state(server, engine)
    _on_signal(state.is_terminated.set, signal.SIGTERM, signal.SIGINT)
    async with _listening(state), _core_running(state) as core:
        state.front = await asyncio.to_thread(
            load_front, engine.model_uri, server.tool_parser, server.reasoning_parser
        )
        stopping = asyncio.create_task(state.is_terminated.wait(), name="signals")
        await asyncio.wait({core, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if core.done():
            return await _report_death(core.result())
        return await _drain(state, core)


def _make_state(server: ServerConfig, engine: EngineConfig) -> ServerState:
    core = SpawnedCore(engine)
    model_name = server.served_model_name or PurePosixPath(engine.model_uri).stem
    metrics = Metrics(server, model_name, core.heartbeat)
    tracing = Tracing(server.otlp_endpoint) if server.otlp_endpoint else None
    return ServerState(server, engine, model_name, core, metrics, int(time.time()), tracing)


def _on_signal(handle: Callable[[], None], *signals: signal.Signals) -> None:
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, handle)


@asynccontextmanager
async def _listening(state: ServerState) -> AsyncIterator[None]:
    try:
        async with door.opened(build_app(state), state.server.host, state.server.port):
            try:
                yield
            finally:
                state.is_closing = True
    finally:
        if state.tracing is not None:
            await asyncio.to_thread(state.tracing.close)


@asynccontextmanager
async def _core_running(state: ServerState) -> AsyncIterator[asyncio.Task[int]]:
    core = asyncio.create_task(state.core.run(state.on_message), name="core")
    try:
        yield core
    finally:
        core.cancel()
        with suppress(asyncio.CancelledError):
            await core


async def _report_death(exit_code: int) -> int:
    log.error("engine core ended", extra={"fields": {"exit_code": exit_code}})
    await asyncio.sleep(_FAREWELL_SECONDS)
    return EXIT_CANNOT_START if exit_code == EXIT_CANNOT_START else EXIT_CORE_DIED


async def _drain(state: ServerState, core: asyncio.Task[int]) -> int:
    """Refuses new requests and waits for the running ones, within the drain timeout."""
    state.is_draining = True
    log.info("draining", extra={"fields": {"sequences": state.num_in_flight}})
    empty = asyncio.create_task(state.is_empty.wait(), name="empty")
    await asyncio.wait(
        {empty, core},
        timeout=state.server.drain_timeout_seconds,
        return_when=asyncio.FIRST_COMPLETED,
    )
    empty.cancel()
    log.info("drained", extra={"fields": {"sequences_cut": state.num_in_flight}})
    return EXIT_CORE_DIED if core.done() else 0
