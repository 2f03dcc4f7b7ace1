"""The two Services of an InferenceService: the one clients use, and the one that names its pods."""

from openinference_operator import names
from openinference_operator.manifests.common import (
    Manifest,
    child,
    client_ports,
    component_labels,
)
from openinference_operator.manifests.engine import selector
from openinference_operator.spec import InferenceService


def build_client_service(service: InferenceService) -> Manifest:
    """The address of the model. It leads to the routers, which tell services apart by host."""
    manifest = child(service, "router", "v1", "Service", service.name)
    return manifest | {"spec": {"selector": component_labels("router"), "ports": client_ports()}}


def build_groups_service(service: InferenceService) -> Manifest:
    """Headless; pods have names before they are ready, because ranks and routers need them then."""
    name = names.groups_service(service.name)
    manifest = child(service, "engine", "v1", "Service", name)
    port = {"name": "http", "port": names.ENGINE_PORT, "targetPort": "http", "protocol": "TCP"}
    return manifest | {
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(service.name),
            "ports": [port],
        }
    }


def client_url(service: InferenceService) -> str:
    """Where clients inside the cluster reach the model."""
    return f"http://{service.name}.{service.namespace}.svc"
