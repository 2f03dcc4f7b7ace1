"""InferenceServices and Events of the namespace, as the dashboard shows them.

Watched only while somebody looks: a router without viewers asks the API server for nothing more
than its routes. Without the permission the page says so and shows what the router knows itself.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import msgspec
from kubernetes.aio import client
from kubernetes.aio.config import ConfigException

from openinference_router.watch import Watch, cluster_api

NUM_EVENTS = 40
_GROUP, _VERSION, _PLURAL = "openinference.dev", "v1alpha1", "inferenceservices"
_ABOUT_SERVICES = "involvedObject.kind=InferenceService"

T = TypeVar("T")


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """One `metav1.Condition`."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""


class Scaling(msgspec.Struct, frozen=True, rename="camel"):
    desired: int | None = None
    reason: str = ""
    message: str = ""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """The part of an InferenceService's status that the page shows; it grows by parts."""

    observed_generation: int = 0
    url: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    routable_replicas: int = 0
    updated_replicas: int = 0
    replicas_summary: str = ""
    current_revision: str = ""
    update_revision: str = ""
    conditions: tuple[Condition, ...] = ()
    scaling: Scaling | None = None


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """What happened to a service; `at` is RFC 3339."""

    service: str
    type: str
    reason: str
    message: str
    count: int
    at: str


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    creation_timestamp: str = ""


class _Spec(msgspec.Struct):
    suspend: bool = False


class InferenceService(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: Status = Status()


class _Involved(msgspec.Struct):
    name: str = ""


class _Event(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    involved_object: _Involved
    type: str | None = None
    reason: str | None = None
    message: str | None = None
    count: int | None = None
    last_timestamp: str | None = None
    event_time: str | None = None


class ClusterView:
    """What the API server says about the namespace, as long as it is open for somebody."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._num_viewers = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._services: Watch[InferenceService] | None = None
        self._events: Watch[Event] | None = None
        self._failure = ""

    @property
    def services(self) -> dict[str, InferenceService]:
        return self._services.items if self._services else {}

    @property
    def events(self) -> list[Event]:
        """The newest ones, newest first."""
        known = self._events.items.values() if self._events else ()
        return sorted(known, key=lambda event: event.at, reverse=True)[:NUM_EVENTS]

    @property
    def trouble(self) -> str:
        """Why services or events may be missing here; empty while all is well."""
        watches = [watch for watch in (self._services, self._events) if watch]
        return self._failure or next((watch.trouble for watch in watches if watch.trouble), "")

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the view up to date inside; the first viewer starts it, the last one ends it."""
        self._num_viewers += 1
        if self._num_viewers == 1:
            self._tasks = [asyncio.create_task(self._follow(), name="dashboard")]
        try:
            yield
        finally:
            self._num_viewers -= 1
            if self._num_viewers == 0:
                await _cancel(self._tasks)

    async def _follow(self) -> None:
        self._failure = ""
        try:
            async with cluster_api() as api, asyncio.TaskGroup() as group:
                self._services = _watch_services(api, self.namespace)
                self._events = _watch_events(api, self.namespace)
                for watch in (self._services, self._events):
                    group.create_task(_exhaust(watch), name="dashboard watch")
        except* ConfigException as errors:
            self._failure = str(errors.exceptions[0])


async def _exhaust(watch: Watch[Any]) -> None:
    async for _ in watch.snapshots():
        pass


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _watch_services(api: client.ApiClient, namespace: str) -> Watch[InferenceService]:
    list_ = client.CustomObjectsApi(api).list_namespaced_custom_object_without_preload_content
    open_ = functools.partial(list_, _GROUP, _VERSION, namespace, _PLURAL)
    return Watch("services", open_, _decoder(InferenceService))


def _watch_events(api: client.ApiClient, namespace: str) -> Watch[Event]:
    list_ = client.CoreV1Api(api).list_namespaced_event_without_preload_content
    open_ = functools.partial(list_, namespace, field_selector=_ABOUT_SERVICES)
    decode = _decoder(_Event)
    return Watch("events", open_, lambda raw: _event(decode(raw)))


def _decoder(kind: type[T]) -> Callable[[msgspec.Raw], T]:
    return msgspec.json.Decoder(kind).decode


def _event(seen: _Event) -> Event:
    return Event(
        service=seen.involved_object.name,
        type=seen.type or "Normal",
        reason=seen.reason or "",
        message=seen.message or "",
        count=seen.count or 1,
        at=seen.last_timestamp or seen.event_time or seen.metadata.creation_timestamp,
    )
