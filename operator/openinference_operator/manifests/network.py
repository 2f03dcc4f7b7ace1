"""Who may open a connection to engines and routers of a namespace.

    clients ──► router 8080      router ──► engine 8000      operator ──► router 8081, engine 8000
                                 Prometheus ──► router 8081, engine 8000

What pods may connect to is left open: routers ask the API server and Prometheus, and models come
from anywhere.
"""

from collections.abc import Sequence
from typing import Any

from openinference_operator import names
from openinference_operator.manifests.common import Manifest, child, component_labels, shared_child
from openinference_operator.settings import NetworkSettings
from openinference_operator.spec import InferenceService

# Whoever reaches a router may ask; API keys decide about more.
_CLIENTS: Manifest = {"ports": [{"protocol": "TCP", "port": name} for name in ("http", "https")]}
POLICIES = (names.ENGINES, names.ROUTER)
OPERATOR_LABELS = {
    "app.kubernetes.io/name": "openinference",
    "app.kubernetes.io/component": "operator",
}


def build_network_policies(
    services: Sequence[InferenceService], settings: NetworkSettings
) -> list[Manifest]:
    """One policy for all engines of a namespace, one for its routers; none where they are off."""
    if not settings.is_enabled:
        return []
    observers = [_operator(settings.operator_namespace), *map(dict, settings.scrapers)]
    routers = {"podSelector": {"matchLabels": component_labels("router")}}
    return [
        _policy(services, names.ENGINES, "engine", [_rule([routers, *observers], "http")]),
        _policy(
            services,
            names.ROUTER,
            "router",
            [_CLIENTS, _rule(observers, "internal")],
        ),
    ]


def build_group_policy(service: InferenceService, group: str, uid: str) -> Manifest:
    """The pods of one group reach each other on every port; it goes with the group's StatefulSet.

    Ranks trust whoever reaches them (docs/wire.md), so other groups are as shut out as strangers.
    """
    pods = {"podSelector": {"matchLabels": {names.LABEL_GROUP: group}}}
    manifest = child(service, "engine", "networking.k8s.io/v1", "NetworkPolicy", group)
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": group, "uid": uid}
    manifest["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    return manifest | {"spec": pods | {"policyTypes": ["Ingress"], "ingress": [{"from": [pods]}]}}


def _policy(
    services: Sequence[InferenceService],
    name: str,
    component: str,
    ingress: list[Manifest],
) -> Manifest:
    spec = {
        "podSelector": {"matchLabels": component_labels(component)},
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    }
    return shared_child(services, "networking.k8s.io/v1", "NetworkPolicy", name) | {"spec": spec}


def _rule(peers: Sequence[Any], port: str) -> Manifest:
    return {"from": list(peers), "ports": [{"protocol": "TCP", "port": port}]}


def _operator(namespace: str) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": OPERATOR_LABELS},
    }
