"""Where connections come in: one address, and what may be logged of a request that is malformed."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from openinference_engine.errors import StartError
from openinference_engine.ranks.addresses import joined

_FAREWELL_SECONDS = 1.0  # for handlers to write their last bytes

log = logging.getLogger("openinference.server")


@asynccontextmanager
async def opened(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Serves `app` until left; a handler ends when its client goes. host: "" for all addresses.

    Raises StartError if nobody can listen there.
    """
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=_http_log(),
        shutdown_timeout=_FAREWELL_SECONDS,
    )
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise StartError(
            f"cannot listen on {joined(host, port) if host else f'port {port}'}: {_reason(error)}; "
            "free it, or use another --host or --port"
        ) from error
    log.info("listening", extra={"fields": {"host": host, "port": port}})


def _reason(error: OSError) -> str:
    """asyncio says more than the system; what is said of names is not of its numbers."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror)


def _http_log() -> logging.Logger:
    logger = logging.getLogger("openinference.http")
    logger.addFilter(_hide_bytes)
    return logger


def _hide_bytes(record: logging.LogRecord) -> bool:
    """What aiohttp could not parse may be a credential or a part of a prompt."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "request not parsed", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True
