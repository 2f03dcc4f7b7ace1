"""What the operator sees of the cluster: complete lists and kopf's watches fill store and queue.

The store is whole when every kind has been listed once; what changes is told by kopf. Of kopf only
events are used: no index, which costs a fifth of an event's time and is the other way to know that
all is seen, no finalizers, no annotations, nothing that would outlive the operator.

A watch that has to list again reports no deletion for what vanished meanwhile, so every object is
listed anew now and then, and soon after the first time: the watches begin a little later.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, repeat
from typing import Any

import kopf

from openinference_operator import names
from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError
from openinference_operator.resources import RESOURCES
from openinference_operator.store import Store
from openinference_operator.triggers import Triggers

log = logging.getLogger(__name__)

WATCHED_KINDS = (
    names.KIND,
    "StatefulSet",
    "ControllerRevision",
    "Job",
    "Deployment",
    "Service",
    "ConfigMap",
    "ServiceAccount",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "RoleBinding",
    "Pod",
)
RETRY_SECONDS = 1.0
SOON_SECONDS = 10.0
RELIST_SECONDS = 300.0


def build_registry(store: Store, triggers: Triggers) -> kopf.OperatorRegistry:
    """The handlers of all kinds of objects that the operator watches."""
    registry = kopf.OperatorRegistry()

    async def happened(event: kopf.RawEvent, **_: Any) -> None:  # a plain one would get a thread
        obj: Mapping[str, Any] = event["object"]
        if event["type"] == "DELETED":
            store.remove(obj)
            triggers.changed(obj)
        elif store.put(obj):
            triggers.changed(obj)

    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        in_cluster = kopf.login_with_service_account(**arguments)
        return in_cluster or kopf.login_with_kubeconfig(**arguments)

    kopf.on.login(registry=registry)(login)
    for kind in WATCHED_KINDS:
        kopf.on.event(*_selector(kind), id=f"happened_{kind}", registry=registry)(happened)
    return registry


def build_kopf_settings() -> kopf.OperatorSettings:
    """kopf as a library of watches: quiet, filtered by label, and with finite patience."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.chunk_size = 500
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.queueing.batch_window = 0.02
    settings.persistence.diffbase_storage = NoDifferences()
    for kind in WATCHED_KINDS:
        if kind != names.KIND:
            settings.watching.label_selectors[_selector(kind)] = names.OWN_OBJECTS
    return settings


class NoDifferences(kopf.DiffBaseStorage):
    """kopf's copy of each object for its handlers of changes, of which we have none."""

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None
    ) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


async def keep_listing(
    cluster: Cluster,
    store: Store,
    triggers: Triggers,
    namespace: str,
    on_whole: Callable[[], None],
) -> None:
    """Compare the store with complete lists, for ever; `on_whole` is called after the first."""

    async def list_kinds(kinds: Iterable[str]) -> list[str]:
        """Return those that the API server did not give."""
        return [
            kind
            for kind in kinds
            if not await _list_kind(cluster, store, triggers, kind, namespace)
        ]

    missing = await list_kinds(WATCHED_KINDS)
    while missing:
        await asyncio.sleep(RETRY_SECONDS)
        missing = await list_kinds(missing)
    on_whole()
    for pause_seconds in chain([SOON_SECONDS], repeat(RELIST_SECONDS)):
        await asyncio.sleep(pause_seconds)
        await list_kinds(WATCHED_KINDS)  # one that is not given keeps nothing of the others


async def _list_kind(
    cluster: Cluster, store: Store, triggers: Triggers, kind: str, namespace: str
) -> bool:
    """List all objects of a kind; return whether the API server gave it."""
    selector = "" if kind == names.KIND else names.OWN_OBJECTS
    before, listed = store.uids(kind), set[str]()
    try:
        async for obj in cluster.list_all(kind, namespace, selector):
            listed.add(obj["metadata"]["uid"])  # and no more: whole, thousands take much memory
            if store.put(obj):
                triggers.changed(obj)
    except ApiError as error:
        log.warning("not listed: kind=%s error=%s", kind, error)
        return False
    for obj in store.forget_all(kind, before - listed):
        triggers.changed(obj)
    return True


def _selector(kind: str) -> tuple[str, str, str]:
    group, _, version = RESOURCES[kind].api_version.rpartition("/")
    return group, version, RESOURCES[kind].plural
