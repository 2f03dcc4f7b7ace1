"""What the template of an engine pod says of its ranks (docs/wire.md, "A group of ranks").

The pods of a group share one template: what differs between them comes from their labels.
"""

from collections.abc import Mapping

from openinference_operator import names
from openinference_operator.layout import Layout
from openinference_operator.manifests.common import Manifest
from openinference_operator.spec import InferenceService

RENDEZVOUS_SECONDS = 600  # for the slowest pod of a group to get a node, an image and its model
ZONE = "topology.kubernetes.io/zone"


def flags(service: InferenceService, layout: Layout) -> list[str]:
    """The sizes that are not one, and where the pods of a group meet."""
    sizes = {"pipeline": layout.pipeline, "tensor": layout.tensor, "expert": layout.expert}
    given = [f"--{name}={size}" for name, size in sizes.items() if size > 1]
    if layout.pods == 1:
        return given
    host = f"$(OPENINFERENCE_GROUP)-0.{names.groups_service(service.name)}.{service.namespace}.svc"
    return [
        *given,
        f"--pods={layout.pods}",
        f"--rendezvous={host}:{names.RANKS_PORT}",
        f"--rendezvous-timeout-seconds={RENDEZVOUS_SECONDS}",
    ]


def environment(layout: Layout, image: str) -> list[Manifest]:
    """Which pod of its group it is, and what it must have in common with the others."""
    if layout.pods == 1:
        return []
    index = f"metadata.labels['{names.LABEL_POD_INDEX}']"
    return [
        {"name": "OPENINFERENCE_POD_INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "OPENINFERENCE_IMAGE", "value": image},
    ]


def ports(layout: Layout) -> list[Manifest]:
    """Where pod 0 awaits the others; further ports are chosen by the system."""
    port = {"name": "ranks", "containerPort": names.RANKS_PORT}
    return [port] if layout.pods > 1 else []


def rendezvous_seconds(layout: Layout) -> int:
    """How much longer a pod may take to start, because it waits for others."""
    return RENDEZVOUS_SECONDS if layout.pods > 1 else 0


def near_each_other(spec: Manifest, selector: Mapping[str, str], layout: Layout) -> Manifest:
    """Prefer one zone for the pods of a group, unless the user has said where they go.

    Each step crosses their network several times. `matchLabelKeys` is what tells the groups of one
    template apart.
    """
    if layout.pods == 1 or "affinity" in spec:
        return spec
    term = {
        "topologyKey": ZONE,
        "labelSelector": {"matchLabels": dict(selector)},
        "matchLabelKeys": [names.LABEL_GROUP],
    }
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    affinity = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return spec | {"affinity": affinity}
