"""The router of a namespace: one Deployment for all InferenceServices in it, and what it needs.

Every object here is owned by each InferenceService of the namespace and by none alone, so it goes
when the last of them goes.
"""

import base64
from collections.abc import Sequence

from openinference_operator import names
from openinference_operator.manifests.common import (
    CONTAINER_SECURITY,
    LIFECYCLE,
    POD_SECURITY,
    SCRATCH_ENVIRONMENT,
    SCRATCH_MOUNT,
    SCRATCH_VOLUME,
    TOKEN_MOUNT,
    TOKEN_VOLUME,
    Manifest,
    client_ports,
    component_labels,
    disruption_budget,
    lost_node_tolerations,
    scrape_annotations,
    shared_child,
    tracing_environment,
)
from openinference_operator.settings import RouterSettings
from openinference_operator.spec import InferenceService

COMPONENT = "router"
INTERNAL_PORT: Manifest = {
    "name": "internal",
    "port": names.ROUTER_INTERNAL_PORT,
    "targetPort": "internal",
    "protocol": "TCP",
}
SHUTDOWN_MARGIN_SECONDS = 30  # endpoints change before the drain, streams close after it


def build_token(services: Sequence[InferenceService], token: str | None) -> Manifest:
    """The Secret that routers, engines and operator share. Without a token: its metadata alone."""
    manifest = shared_child(services, "v1", "Secret", names.TOKEN_SECRET)
    if token is None:
        return manifest
    data = {names.TOKEN_KEY: base64.b64encode(token.encode()).decode()}
    return manifest | {"type": "Opaque", "data": data}


def build_router(services: Sequence[InferenceService], settings: RouterSettings) -> list[Manifest]:
    """All objects of the router but the Secret, in the order in which they are needed."""
    disruption = shared_child(services, "policy/v1", "PodDisruptionBudget", names.ROUTER)
    return [
        shared_child(services, "v1", "ServiceAccount", names.ROUTER),
        _role_binding(services, settings.cluster_role),
        _service(services),
        disruption_budget(disruption, component_labels(COMPONENT)),
        _deployment(services, settings),
    ]


def _role_binding(services: Sequence[InferenceService], cluster_role: str) -> Manifest:
    manifest = shared_child(services, "rbac.authorization.k8s.io/v1", "RoleBinding", names.ROUTER)
    return manifest | {
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": cluster_role,
        },
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": names.ROUTER,
                "namespace": services[0].namespace,
            }
        ],
    }


def _service(services: Sequence[InferenceService]) -> Manifest:
    return shared_child(services, "v1", "Service", names.ROUTER) | {
        "spec": {
            "selector": component_labels(COMPONENT),
            "ports": [*client_ports(), INTERNAL_PORT],
        }
    }


def _deployment(services: Sequence[InferenceService], settings: RouterSettings) -> Manifest:
    drain_seconds = max(service.rollout.drain_timeout_seconds for service in services)
    labels = component_labels(COMPONENT)
    template = {
        "metadata": {
            "labels": labels,
            "annotations": scrape_annotations(names.ROUTER_INTERNAL_PORT),
        },
        "spec": {
            "serviceAccountName": names.ROUTER,
            "containers": [_container(settings, drain_seconds)],
            "volumes": [dict(SCRATCH_VOLUME), dict(TOKEN_VOLUME)],
            "securityContext": dict(POD_SECURITY),
            "enableServiceLinks": False,
            "tolerations": lost_node_tolerations(),
            "terminationGracePeriodSeconds": drain_seconds + SHUTDOWN_MARGIN_SECONDS,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": labels},
                }
            ],
        },
    }
    return shared_child(services, "apps/v1", "Deployment", names.ROUTER) | {
        "spec": {
            "replicas": settings.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": template,
        }
    }


def _container(settings: RouterSettings, drain_seconds: int) -> Manifest:
    ready = {"httpGet": {"path": "/ready", "port": "internal"}, "timeoutSeconds": 2}
    alive = {"httpGet": {"path": "/health", "port": "internal"}, "timeoutSeconds": 5}
    return {
        "name": COMPONENT,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "openinference_router"],
        "env": [
            _from_field("OPENINFERENCE_ROUTER_NAMESPACE", "metadata.namespace"),
            _from_field("OPENINFERENCE_ROUTER_POD_NAME", "metadata.name"),
            {
                "name": "OPENINFERENCE_ROUTER_TOKEN_FILE",
                "value": f"{names.TOKEN_DIRECTORY}/{names.TOKEN_KEY}",
            },
            {"name": "OPENINFERENCE_ROUTER_REPLICAS", "value": str(settings.replicas)},
            {"name": "OPENINFERENCE_ROUTER_KEYS_SECRET", "value": names.KEYS_SECRET},
            {"name": "OPENINFERENCE_ROUTER_TLS_SECRET", "value": names.TLS_SECRET},
            {"name": "OPENINFERENCE_ROUTER_DRAIN_TIMEOUT_SECONDS", "value": str(drain_seconds)},
            {"name": "OPENINFERENCE_ROUTER_PROMETHEUS_URL", "value": settings.prometheus_url},
            *tracing_environment(settings.otlp_endpoint),
            *map(dict, SCRATCH_ENVIRONMENT),
        ],
        "ports": [
            {"name": "http", "containerPort": names.ROUTER_PORT},
            {"name": "https", "containerPort": names.ROUTER_TLS_PORT},
            {"name": "internal", "containerPort": names.ROUTER_INTERNAL_PORT},
        ],
        "resources": dict(settings.resources),
        "securityContext": dict(CONTAINER_SECURITY),
        "lifecycle": dict(LIFECYCLE),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            dict(SCRATCH_MOUNT),
            dict(TOKEN_MOUNT),
        ],
        "startupProbe": ready | {"periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": ready | {"periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": alive | {"periodSeconds": 5, "failureThreshold": 6},
    }


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
