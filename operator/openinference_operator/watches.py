"""What the operator sees of the cluster: kopf's watches fill the store and the queue.

kopf calls an index function for every object it lists or sees change, and no event handler before
all lists are complete. The index function here fills the store; the first event handler call is
the signal that the store is whole. Only events and an index are used: no finalizers, no
annotations, nothing that would outlive the operator.

A watch that has to list again reports no deletion for what vanished meanwhile, so every object is
listed anew now and then.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import kopf

from openinference_operator import names
from openinference_operator.cluster import RESOURCES, Cluster
from openinference_operator.errors import ApiError
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
RELIST_SECONDS = 300.0


def build_registry(
    store: Store, triggers: Triggers, start: Callable[[], None]
) -> kopf.OperatorRegistry:
    """The handlers of all kinds of objects that the operator watches.

    `start` is called, again and again, once every object that exists has been seen.
    """
    registry = kopf.OperatorRegistry()

    async def seen(body: kopf.Body, **_: Any) -> None:  # kopf would run a plain one in a thread
        obj = _plain(body)
        if store.put(obj):
            triggers.changed(obj)

    async def happened(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        if event["type"] == "DELETED":
            obj = _plain(body)
            store.remove(obj)
            triggers.changed(obj)
        start()

    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        in_cluster = kopf.login_with_service_account(**arguments)
        return in_cluster or kopf.login_with_kubeconfig(**arguments)

    kopf.on.login(registry=registry)(login)
    for kind in WATCHED_KINDS:
        kopf.index(*_selector(kind), id=f"seen_{kind}", registry=registry)(seen)
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


async def relist(cluster: Cluster, store: Store, triggers: Triggers, namespace: str) -> None:
    """Compare the store with complete lists, for ever."""
    while True:
        await asyncio.sleep(RELIST_SECONDS)
        for kind in WATCHED_KINDS:
            try:
                await _relist_kind(cluster, store, triggers, kind, namespace)
            except ApiError as error:
                log.warning("not listed: kind=%s error=%s", kind, error)


async def _relist_kind(
    cluster: Cluster, store: Store, triggers: Triggers, kind: str, namespace: str
) -> None:
    selector = "" if kind == names.KIND else names.OWN_OBJECTS
    before = store.uids(kind)
    listed = [obj async for obj in cluster.list_all(kind, namespace, selector)]
    for obj in listed:
        if store.put(obj):
            triggers.changed(obj)
    for obj in store.forget_missing(kind, before, listed):
        triggers.changed(obj)


def _selector(kind: str) -> tuple[str, str, str]:
    group, _, version = RESOURCES[kind].api_version.rpartition("/")
    return group, version, RESOURCES[kind].plural


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    return dict(body)
