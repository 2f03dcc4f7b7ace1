"""One kind of object in the namespace, listed and then watched through the Kubernetes API.

Each change yields the whole set, so the reader never merges. An object that cannot be read is
logged and its last good version stays; so does everything while the API server is away. Watches
are short on purpose: one that froze silently is replaced within two minutes.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec
from kubernetes.aio import client, config

WATCH_SECONDS = 60
FROZEN_SECONDS = 75.0  # in all: a watch that outlives its own end is dead
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)

T = TypeVar("T")
Open = Callable[..., Awaitable[aiohttp.ClientResponse]]
"""A list call of the Kubernetes client that leaves the response's content unread."""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[msgspec.Raw] = []


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Expired(Exception):
    """The watch cannot go on from its resourceVersion: list again."""


@contextlib.asynccontextmanager
async def cluster_api() -> AsyncIterator[client.ApiClient]:
    """The API of the cluster around this pod, or the one that KUBECONFIG names.

    Raises kubernetes.aio.config.ConfigException when there is neither.
    """
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
    async with client.ApiClient() as api:
        yield api


class Watch(Generic[T]):
    """Keeps the good objects by name; `what` they are is said in the log.

    `decode` makes a T of an object's JSON, or raises ValueError (msgspec's errors are such).
    """

    def __init__(self, what: str, open_: Open, decode: Callable[[msgspec.Raw], T]) -> None:
        self.items: dict[str, T] = {}
        self.trouble = ""
        """Why `items` may be out of date; empty while they are not."""
        self._what = what
        self._open = open_
        self._decode = decode

    async def snapshots(self) -> AsyncIterator[list[T]]:
        """All objects, at first and after each change; never ends."""
        while True:
            try:
                version = await self._list()
                self.trouble = ""
                yield list(self.items.values())
                async for _ in self._changes(version):
                    yield list(self.items.values())
            except _Expired:
                _log.info(f"{self._what} watch expired")
            except (client.ApiException, aiohttp.ClientError, OSError, ValueError) as error:
                self.trouble = _in_words(self._what, error)
                _log.warning(f"{self._what} unknown", extra={"reason": self.trouble})
            await asyncio.sleep(RETRY_SECONDS)

    async def _list(self) -> str:
        """Take over all objects; returns the resourceVersion to watch from."""
        async with self._opened() as response:
            found = msgspec.json.decode(await response.read(), type=_List)
        named = {_name(raw): raw for raw in found.items}
        for gone in self.items.keys() - named.keys():
            del self.items[gone]
        for name, raw in named.items():
            self._take(name, raw)
        return found.metadata.resource_version

    async def _changes(self, version: str) -> AsyncIterator[None]:
        """Follow changes from `version` for ever, yielding after each one that matters."""
        while True:
            async with self._opened(version) as response:
                async for line in response.content:
                    event = msgspec.json.decode(line, type=_Event)
                    if event.type == "ERROR":
                        raise _Expired
                    metadata = msgspec.json.decode(event.object, type=_Object).metadata
                    version = metadata.resource_version
                    if event.type != "BOOKMARK":
                        self._change(event.type, metadata.name, event.object)
                        yield

    @contextlib.asynccontextmanager
    async def _opened(self, watch_from: str | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """A list, or a watch from a resourceVersion. Raises _Expired when that is too old."""
        asked: dict[str, Any] = {"allow_watch_bookmarks": True, "timeout_seconds": WATCH_SECONDS}
        if watch_from is not None:
            asked |= {"watch": True, "resource_version": watch_from}
        response = await self._open(**asked, _request_timeout=FROZEN_SECONDS)
        try:
            if response.status == 410:
                raise _Expired
            response.raise_for_status()
            yield response
        finally:
            response.release()

    def _change(self, kind: str, name: str, raw: msgspec.Raw) -> None:
        if kind == "DELETED":
            self.items.pop(name, None)
        else:
            self._take(name, raw)

    def _take(self, name: str, raw: msgspec.Raw) -> None:
        try:
            self.items[name] = self._decode(raw)
        except ValueError as error:
            _log.error(f"{self._what} ignored", extra={"object": name, "reason": str(error)})


def _in_words(what: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError) and error.status == 403:
        return f"the ServiceAccount of the router may not list {what}; upgrade the chart"
    return str(error).split("\n")[0] or type(error).__name__


def _name(raw: msgspec.Raw) -> str:
    return msgspec.json.decode(raw, type=_Object).metadata.name
