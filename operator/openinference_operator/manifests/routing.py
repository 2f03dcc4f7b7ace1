"""The routing ConfigMap: everything a router is told about one InferenceService (docs/wire.md)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openinference_operator import names
from openinference_operator.manifests.common import Manifest, child
from openinference_operator.spec import InferenceService

KEY = "routing.json"


@dataclass(frozen=True, slots=True)
class Route:
    """One group as the routers shall see it."""

    group: str
    revision: str
    state: Literal["Active", "Draining"]
    weight: int = 100


def build_routing_configmap(
    service: InferenceService, routes: Sequence[Route], live: Mapping[str, Any] | None
) -> Manifest:
    """Render the routing; its generation grows by one only when anything else in it changes."""
    content = _content(service, routes)
    before = read_routing(live)
    generation = int(before.get("generation", 0))
    if {**before, "generation": 0} != {**content, "generation": 0}:
        generation += 1
    manifest = child(service, "routing", "v1", "ConfigMap", names.routing_configmap(service.name))
    manifest["metadata"]["labels"][names.LABEL_ROUTING] = "true"
    return manifest | {"data": {KEY: json.dumps({**content, "generation": generation}, indent=1)}}


def read_routing(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a routing ConfigMap says; empty when it is missing or not ours to read."""
    try:
        content = json.loads((manifest or {}).get("data", {}).get(KEY, "{}"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _content(service: InferenceService, routes: Sequence[Route]) -> dict[str, Any]:
    return {
        "service": service.name,
        "model": service.model.name,
        "createdAt": service.created_at,
        "groups": [
            {
                "id": route.group,
                "revision": route.revision,
                "address": names.group_address(route.group, service.name, service.namespace),
                "weight": route.weight,
                "state": route.state,
            }
            for route in sorted(routes, key=lambda route: route.group)
        ],
        "queue": {
            "maxRequests": service.queue.max_requests,
            "contendedTimeoutSeconds": service.queue.contended_timeout_seconds,
            "coldStartTimeoutSeconds": service.queue.cold_start_timeout_seconds,
        },
        "balancing": {
            "algorithm": service.balancing.algorithm,
            "sessionHeader": service.balancing.session_header,
        },
        "drainTimeoutSeconds": service.rollout.drain_timeout_seconds,
    }
