"""The router's memory: services from routing documents, and one load watch per group.

Ties the pieces together and holds no rule of its own: `routing` says which service is meant,
`service` who gets a seat, `load` what engines report.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterable

import aiohttp

from openinference_router.group import Group
from openinference_router.load import LoadWatch
from openinference_router.routing import RoutingTable
from openinference_router.service import Service
from openinference_router.wire import TOKEN_HEADER, RouterState, Routing


class Router:
    """Lives on one event loop. `is_draining` and `is_synced` are what `/ready` is made of."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        name: str,
        namespace: str,
        token: str | None,
        replicas: int = 1,
    ) -> None:
        self.version = 0
        self.is_synced = False
        self.is_draining = False
        self._session = session
        self._name = name
        self._namespace = namespace
        self._replicas = replicas
        self._engine_headers = {TOKEN_HEADER: token} if token else {}
        self._services: dict[str, Service] = {}
        self._leaving: list[Service] = []  # deleted, perhaps not yet empty
        self._table = RoutingTable(namespace)
        self._watches: dict[Group, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def services(self) -> list[Service]:
        return list(self._services.values())

    def models(self) -> list[Routing]:
        return self._table.models()

    def select(self, host: str, model: str | None) -> Service:
        """The service a request means. Raises Refusal."""
        return self._services[self._table.select(host, model).service]

    def apply(self, routings: Iterable[Routing]) -> None:
        """Make services and watches what the documents say, all of them at once."""
        wanted = {routing.service: routing.part_of(self._replicas) for routing in routings}
        for name in self._services.keys() - wanted.keys():
            removed = self._services.pop(name)
            removed.remove()
            self._leaving.append(removed)
        self._leaving = [service for service in self._leaving if service.open_requests]
        for name, routing in wanted.items():
            if name in self._services:
                self._services[name].route(routing)
            else:
                self._services[name] = Service(routing, time.monotonic, self._note_change)
        self._table = RoutingTable(self._namespace, wanted.values())
        self._watch_groups()
        self.is_synced = True
        self._note_change()

    def drain(self) -> None:
        self.is_draining = True
        self._note_change()

    async def idle(self) -> None:
        """Wait until no client request is open."""
        while self.open_requests:
            await self.change(self.version, timeout_seconds=1.0)

    @property
    def open_requests(self) -> int:
        return sum(service.open_requests for service in [*self.services(), *self._leaving])

    def state(self) -> RouterState:
        return RouterState(
            router=self._name,
            draining=self.is_draining,
            services={service.name: service.state() for service in self._services.values()},
        )

    async def change(self, seen_version: int, timeout_seconds: float) -> None:
        """Wait until `version` is another one than was seen, or for the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self.version == seen_version:
                    await self._changed.wait()

    async def close(self) -> None:
        for task in self._watches.values():
            task.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        self._watches.clear()

    def _note_change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed.clear()

    def _watch_groups(self) -> None:
        """Start what is missing; a watch that is no longer wanted ends by itself."""
        wanted = {g: service for service in self.services() for g in service.groups.values()}
        for group in wanted.keys() - self._watches.keys():
            watch = LoadWatch(self._session, wanted[group], group, self._engine_headers)
            self._watches[group] = asyncio.create_task(watch.run(), name=f"load {group.id}")
            self._watches[group].add_done_callback(functools.partial(self._forget, group))

    def _forget(self, group: Group, _: asyncio.Task[None]) -> None:
        self._watches.pop(group, None)
