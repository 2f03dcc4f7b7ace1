"""The routing ConfigMaps of the namespace, listed and then watched through the Kubernetes API.

Each change yields the whole set, so the reader never merges. A document that cannot be read is
logged and its last good version stays; so does everything while the API server is away. Watches
are short on purpose: one that froze silently is replaced within two minutes.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from kubernetes.aio import client, config

from openinference_router.wire import Routing

SELECTOR = "openinference.dev/routing=true"
WATCH_SECONDS = 60
FROZEN_SECONDS = 75.0  # in all: a watch that outlives its own end is dead
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _ConfigMap(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    data: dict[str, str] = {}


class _ConfigMapList(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    items: list[_ConfigMap] = []


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Expired(Exception):
    """The watch cannot go on from its resourceVersion: list again."""


@contextlib.asynccontextmanager
async def cluster_api() -> AsyncIterator[client.CoreV1Api]:
    """The API of the cluster around this pod, or the one that KUBECONFIG names.

    Raises kubernetes.aio.config.ConfigException when there is neither.
    """
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
    async with client.ApiClient() as api:
        yield client.CoreV1Api(api)


class RoutingWatch:
    """Keeps the good routing documents by ConfigMap name."""

    def __init__(self, api: client.CoreV1Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._routings: dict[str, Routing] = {}

    async def snapshots(self) -> AsyncIterator[list[Routing]]:
        """All routing documents, at first and after each change; never ends."""
        while True:
            try:
                version = await self._list()
                yield list(self._routings.values())
                async for _ in self._changes(version):
                    yield list(self._routings.values())
            except _Expired:
                _log.info("routing watch expired")
            except (client.ApiException, aiohttp.ClientError, OSError, ValueError) as error:
                _log.warning("routing unknown", extra={"reason": str(error).split("\n")[0]})
            await asyncio.sleep(RETRY_SECONDS)

    async def _list(self) -> str:
        """Take over all ConfigMaps; returns the resourceVersion to watch from."""
        async with self._open() as response:
            found = msgspec.json.decode(await response.read(), type=_ConfigMapList)
        names = {item.metadata.name for item in found.items}
        for gone in self._routings.keys() - names:
            del self._routings[gone]
        for item in found.items:
            self._take(item)
        return found.metadata.resource_version

    async def _changes(self, version: str) -> AsyncIterator[None]:
        """Follow changes from `version` for ever, yielding after each one that matters."""
        while True:
            async with self._open(watch_from=version) as response:
                async for line in response.content:
                    event = msgspec.json.decode(line, type=_WatchEvent)
                    if event.type == "ERROR":
                        raise _Expired
                    item = msgspec.json.decode(event.object, type=_ConfigMap)
                    version = item.metadata.resource_version
                    if event.type != "BOOKMARK":
                        self._change(event.type, item)
                        yield

    @contextlib.asynccontextmanager
    async def _open(self, watch_from: str | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """A list, or a watch from a resourceVersion. Raises _Expired when that is too old."""
        response = await self._api.list_namespaced_config_map_without_preload_content(
            self._namespace,
            label_selector=SELECTOR,
            watch=watch_from is not None,
            resource_version=watch_from,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=FROZEN_SECONDS,
        )
        try:
            if response.status == 410:
                raise _Expired
            response.raise_for_status()
            yield response
        finally:
            response.release()

    def _change(self, kind: str, item: _ConfigMap) -> None:
        if kind == "DELETED":
            self._routings.pop(item.metadata.name, None)
        else:
            self._take(item)

    def _take(self, item: _ConfigMap) -> None:
        name = item.metadata.name
        try:
            text = item.data["routing.json"]
            self._routings[name] = msgspec.json.decode(text, type=Routing)
        except KeyError:
            _log.error("routing ignored", extra={"configMap": name, "reason": "no routing.json"})
        except msgspec.MsgspecError as error:
            _log.error("routing ignored", extra={"configMap": name, "reason": str(error)})
