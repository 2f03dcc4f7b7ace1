"""What all objects share: labels, owner references, and the restricted pod security.

A manifest is a plain dict in the API's own shape; nothing here talks to a cluster.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from openinference_operator import names
from openinference_operator.spec import InferenceService

Manifest: TypeAlias = dict[str, Any]

UNREACHABLE_SECONDS = 30  # Kubernetes' own default of 300 s is too long for a lost replica
USER_ID = 65532  # the conventional "nonroot" of distroless images

POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# Kubernetes may end a pod in the moment it starts. Process 1 never gets a signal that it has no
# handler for yet, and Python needs a tenth of a second, on a busy node half of one: without this
# pause such a pod stayed for its whole grace, which is a drain.
LIFECYCLE: Mapping[str, Any] = {"preStop": {"exec": {"command": ["sleep", "1"]}}}
# The one place a container may write. Not /tmp: the local cluster runs a checkout where it lies,
# and a volume on /tmp would hide one that lies there.
SCRATCH_VOLUME: Mapping[str, Any] = {"name": "scratch", "emptyDir": {}}
SCRATCH_MOUNT: Mapping[str, Any] = {"name": "scratch", "mountPath": "/scratch"}
SCRATCH_ENVIRONMENT: tuple[Mapping[str, Any], ...] = (
    {"name": "HOME", "value": "/scratch"},
    {"name": "TMPDIR", "value": "/scratch"},
)
TOKEN_VOLUME: Mapping[str, Any] = {
    "name": "token",
    "secret": {"secretName": names.TOKEN_SECRET, "defaultMode": 0o440},
}
TOKEN_MOUNT: Mapping[str, Any] = {
    "name": "token",
    "mountPath": names.TOKEN_DIRECTORY,
    "readOnly": True,
}


def lost_node_tolerations() -> list[Manifest]:
    """How long a pod waits for a node that does not answer before another takes its place."""
    return [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": UNREACHABLE_SECONDS,
        }
        for condition in ("not-ready", "unreachable")
    ]


def component_labels(component: str) -> dict[str, str]:
    """Labels of every object of a component."""
    return {
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_COMPONENT: component,
        "app.kubernetes.io/part-of": "openinference",
    }


def service_labels(service: str, component: str) -> dict[str, str]:
    """Labels of every child of one InferenceService."""
    return component_labels(component) | {
        "app.kubernetes.io/instance": service,
        names.LABEL_SERVICE: service,
    }


def client_ports() -> list[Manifest]:
    """Ports of Services that lead to routers; the second answers once there is a certificate."""
    ports = {"http": names.CLIENT_PORT, "https": names.CLIENT_TLS_PORT}
    return [
        {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
        for name, port in ports.items()
    ]


def scrape_annotations(port: int) -> dict[str, str]:
    """Annotations by which Prometheus finds a pod."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port),
        "prometheus.io/path": "/metrics",
    }


def tracing_environment(otlp_endpoint: str) -> list[Manifest]:
    """Where spans go, by the name that OpenTelemetry gave it; nothing where they go nowhere."""
    named = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": otlp_endpoint}
    return [named] if otlp_endpoint else []


def child(
    service: InferenceService, component: str, api_version: str, kind: str, name: str
) -> Manifest:
    """The beginning of an object that one InferenceService owns alone."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": service.namespace,
            "labels": service_labels(service.name, component),
            "ownerReferences": [
                owner_reference(service) | {"controller": True, "blockOwnerDeletion": True}
            ],
        },
    }


def shared_child(
    services: Iterable[InferenceService], api_version: str, kind: str, name: str
) -> Manifest:
    """The beginning of an object that all InferenceServices of a namespace own together.

    It is deleted with the last of them, because none is its controller.
    """
    owners = sorted(services, key=lambda service: service.uid)
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owners[0].namespace,
            "labels": component_labels("router"),
            "ownerReferences": [owner_reference(service) for service in owners],
        },
    }


def owner_reference(service: InferenceService) -> dict[str, Any]:
    """A plain owner reference to an InferenceService."""
    return {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "name": service.name,
        "uid": service.uid,
    }


def disruption_budget(manifest: Manifest, selector: Mapping[str, str]) -> Manifest:
    """Complete a PodDisruptionBudget: one pod at a time, broken ones any time."""
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": dict(selector)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return manifest | {"spec": spec}


def signed(manifest: Manifest) -> Manifest:
    """Note the hash of a manifest in it: a later one that merely lacks a field differs, too."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations", {}) | {names.ANNOTATION_APPLIED: digest}
    return manifest | {"metadata": metadata | {"annotations": annotations}}
