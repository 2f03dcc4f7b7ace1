"""Where connections come in: which ports are open, and what a connection may cost before it asks.

A client that sends its headers a byte at a time is cut off with those that send nothing; one that
sends its body that way is refused by the app. What is too large is refused while it arrives.
"""

import logging
import ssl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

IDLE_SECONDS = 75.0
"""For the headers of the first request, and between two of one connection; nginx's figure."""
MAX_LINE_BYTES = 8190
MAX_HEADERS = 128


def _hide_bytes(record: logging.LogRecord) -> bool:
    """What was not parsed may be a credential: keep why it was refused out of the log."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "request not parsed", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


_log = logging.getLogger(__name__)
_log.addFilter(_hide_bytes)


def make_runner(app: web.Application, farewell_seconds: float) -> web.AppRunner:
    """Handlers end when their client goes; on shutdown they get `farewell_seconds`."""
    return web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=_log,
        shutdown_timeout=farewell_seconds,
        keepalive_timeout=IDLE_SECONDS,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_HEADERS,
    )


class Door:
    """The open ports of one runner."""

    def __init__(self, runner: web.AppRunner, host: str) -> None:
        self._runner = runner
        self._host = host
        self._sites: dict[int, web.TCPSite] = {}
        self._is_closed = False

    async def open(self, port: int, context: ssl.SSLContext | None = None) -> None:
        """Accept connections; nothing where that is done already, or done with."""
        if port not in self._sites and not self._is_closed:
            self._sites[port] = web.TCPSite(self._runner, self._host, port, ssl_context=context)
            await self._sites[port].start()

    async def close(self) -> None:
        """Accept no more; what is connected goes on."""
        self._is_closed = True
        for site in self._sites.values():
            await site.stop()
