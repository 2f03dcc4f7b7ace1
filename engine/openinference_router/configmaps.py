"""The routing ConfigMaps of the namespace: which they are, and what is read of each."""

import functools

import msgspec
from kubernetes.aio import client

from openinference_router.watch import Watch
from openinference_router.wire import Routing

SELECTOR = "openinference.dev/routing=true"


class _Data(msgspec.Struct):
    routing: str | None = msgspec.field(name="routing.json", default=None)


class _ConfigMap(msgspec.Struct):
    data: _Data = msgspec.field(default_factory=_Data)


def watch_routing(api: client.ApiClient, namespace: str) -> Watch[Routing]:
    """All routing documents of the namespace, kept up to date."""
    list_ = client.CoreV1Api(api).list_namespaced_config_map_without_preload_content
    return Watch("routing", functools.partial(list_, namespace, label_selector=SELECTOR), _decode)


def _decode(raw: msgspec.Raw) -> Routing:
    text = msgspec.json.decode(raw, type=_ConfigMap).data.routing
    if text is None:
        raise ValueError("no routing.json")
    return msgspec.json.decode(text, type=Routing)
