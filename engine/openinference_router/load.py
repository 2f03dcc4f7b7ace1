"""Listening to one engine's `/load`: its heartbeat, its load and its notice of draining in one.

A closed stream is opened again at once, then with growing pauses; meanwhile the group is not
chosen. A group unheard for three seconds is dead, whatever its connections look like. The last
part of them begins anew when it is over: a router that was held up itself, by a throttled CPU or
by much work, finds its timers due before it has read what came meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable

import aiohttp
import msgspec

from openinference_router import sse
from openinference_router.group import Group
from openinference_router.service import Service
from openinference_router.wire import LoadReport

SILENT_SECONDS = 3.0
DOUBT_SECONDS = 0.5  # the last part of these three
MIN_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0

_REMEDIES = {
    401: "refused the token: router and engine must have the same Secret openinference-token",
    404: "has no /load: it is not an engine of this project",
}

# Silence is noticed below, so the connection itself may wait longer than the death it announces.
_TIMEOUT = aiohttp.ClientTimeout(
    total=None, sock_connect=SILENT_SECONDS, sock_read=2 * SILENT_SECONDS
)
_decode = msgspec.json.Decoder(LoadReport).decode
_log = logging.getLogger(__name__)


class LoadWatch:
    """Tells `service` what `group` reports, as long as the service wants to know."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        service: Service,
        group: Group,
        headers: dict[str, str],
    ) -> None:
        self._session = session
        self._service = service
        self._group = group
        self._headers = headers
        self._pause_seconds = MIN_PAUSE_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._trouble = ""

    async def run(self) -> None:
        try:
            while self._service.is_watched(self._group):
                await self._listen()
                self._service.disconnected(self._group)
                await asyncio.sleep(self._pause_seconds)
                self._pause_seconds = min(MAX_PAUSE_SECONDS, self._pause_seconds * 2)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _listen(self) -> None:
        """Follow one connection to its end, whatever that is."""
        url = f"{self._group.routed.address}/load"
        try:
            async with self._session.get(url, headers=self._headers, timeout=_TIMEOUT) as response:
                response.raise_for_status()
                self._group.connected()
                splitter = sse.Splitter()
                async for chunk in response.content.iter_any():
                    for data in splitter.feed(chunk):
                        self._heard(_decode(data))
                    if not self._service.is_watched(self._group):
                        return
            self._note("closed")
        except aiohttp.ClientResponseError as error:
            self._note(_REMEDIES.get(error.status, f"answered {error.status}"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._note(str(error) or type(error).__name__)

    def _heard(self, report: LoadReport) -> None:
        self._otherwise(SILENT_SECONDS - DOUBT_SECONDS, self._doubt)
        self._pause_seconds = MIN_PAUSE_SECONDS
        if self._trouble or self._group.load is None:
            _log.info("group heard", extra={"group": self._group.id, "ready": report.ready})
            self._trouble = ""
        self._service.report(self._group, report)

    def _doubt(self) -> None:
        """Silent for long: dead, unless its word has come and was just not read yet."""
        self._otherwise(DOUBT_SECONDS, lambda: self._service.died(self._group))

    def _otherwise(self, seconds: float, act: Callable[[], None]) -> None:
        """`act` when nothing is heard for so long from now on."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, act)

    def _note(self, trouble: str) -> None:
        """Log a change of mind, not each attempt."""
        if trouble != self._trouble:
            _log.warning("group unheard", extra={"group": self._group.id, "reason": trouble})
            self._trouble = trouble
