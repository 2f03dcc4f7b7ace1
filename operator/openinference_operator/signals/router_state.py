"""What the routers say: one stream of `/state` per router pod (docs/wire.md).

This module keeps the streams open and the latest report of each; what follows from them is for
`observe`. A stream that is silent for five seconds is dead, and dead is not zero: there is no
report then, until it speaks again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic

import aiohttp
import msgspec
from yarl import URL

from openinference_operator import names

log = logging.getLogger(__name__)

SILENCE_SECONDS = 5.0
RECONNECT_SECONDS = 0.5
LONGEST_REPORT_BYTES = 16 * 1024 * 1024  # 150 bytes for each replica of a namespace, and to spare


class GroupReport(msgspec.Struct, frozen=True, rename="camel"):
    """One group as one router sees it."""

    admitted: bool
    in_flight: int
    waiting: int
    running: int


class ServiceReport(msgspec.Struct, frozen=True, rename="camel"):
    """One InferenceService as one router sees it."""

    generation: int
    held: int
    groups: dict[str, GroupReport]

    def gist(self) -> tuple[object, ...]:
        """What a decision may hang on; a mere change of load is not worth a reconciliation."""
        groups = (
            (name, group.admitted, group.in_flight == 0)
            for name, group in sorted(self.groups.items())
        )
        return (self.generation, self.held > 0, *groups)


class RouterReport(msgspec.Struct, frozen=True, rename="camel"):
    """One `state` event."""

    router: str
    draining: bool
    services: dict[str, ServiceReport]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A router pod to listen to. A pod with another address is another endpoint."""

    namespace: str
    pod: str
    address: str

    @property
    def url(self) -> URL:
        """Where the pod serves its state; an address of IPv6 gets its brackets."""
        return URL.build(
            scheme="http", host=self.address, port=names.ROUTER_INTERNAL_PORT, path="/state"
        )


class RouterStates:
    """The latest report of every router pod that is followed."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        token_of: Callable[[str], Awaitable[str]],
        on_change: Callable[[str, Iterable[str]], None],
    ) -> None:
        """`token_of(namespace)`; `on_change(namespace, services whose gist changed)`."""
        self._session = session
        self._token_of = token_of
        self._on_change = on_change
        self._followed: dict[Endpoint, asyncio.Task[None]] = {}
        self._since: dict[Endpoint, float] = {}
        self._reports: dict[Endpoint, RouterReport] = {}

    def follow(self, namespace: str, endpoints: Iterable[Endpoint]) -> None:
        """Listen to exactly these router pods of a namespace from now on."""
        wanted = set(endpoints)
        followed = {endpoint for endpoint in self._followed if endpoint.namespace == namespace}
        for endpoint in followed - wanted:
            self._followed.pop(endpoint).cancel()
            self._since.pop(endpoint)
            self._set_report(endpoint, None)
        for endpoint in wanted - followed:
            self._since[endpoint] = monotonic()
            self._followed[endpoint] = asyncio.create_task(
                self._listen(endpoint), name=f"state of {endpoint.pod}"
            )

    def report(self, endpoint: Endpoint) -> RouterReport | None:
        """The latest report of a router pod; None while it is silent."""
        return self._reports.get(endpoint)

    def is_connecting(self, endpoint: Endpoint) -> bool:
        """Whether the pod has been followed for too short a time to be called silent."""
        since = self._since.get(endpoint)
        return (
            endpoint not in self._reports
            and since is not None
            and monotonic() - since < SILENCE_SECONDS
        )

    async def close(self) -> None:
        """Stop listening."""
        tasks = list(self._followed.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, endpoint: Endpoint) -> None:
        while True:
            try:
                async for report in self._stream(endpoint):
                    self._set_report(endpoint, report)
            except Exception as error:  # whatever it was, the report is lost and is tried again
                if endpoint in self._reports:  # one that was heard; others may just be starting
                    log.info("router state lost: pod=%s error=%r", endpoint.pod, error)
            self._set_report(endpoint, None)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _stream(self, endpoint: Endpoint) -> AsyncIterator[RouterReport]:
        headers = {names.TOKEN_HEADER: await self._token_of(endpoint.namespace)}
        timeout = aiohttp.ClientTimeout(
            total=None, connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS
        )
        async with self._session.get(
            endpoint.url, headers=headers, timeout=timeout, read_bufsize=LONGEST_REPORT_BYTES
        ) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data:"):
                    yield msgspec.json.decode(line[len(b"data:") :], type=RouterReport)

    def _set_report(self, endpoint: Endpoint, report: RouterReport | None) -> None:
        before = self._reports.pop(endpoint, None)
        if report is not None:
            self._reports[endpoint] = report
        changed = _changed_services(before, report)
        if changed:
            self._on_change(endpoint.namespace, changed)


def _changed_services(before: RouterReport | None, after: RouterReport | None) -> set[str]:
    old = before.services if before else {}
    new = after.services if after else {}
    return {
        name
        for name in old.keys() | new.keys()
        if name not in old
        or name not in new
        # Nearly all are as they were, and compared in C.
        or (old[name] != new[name] and old[name].gist() != new[name].gist())
    }
