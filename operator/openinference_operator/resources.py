"""The kinds of objects that the operator knows, and where each lives in the API."""

from collections.abc import Mapping
from dataclasses import dataclass

from openinference_operator import names


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a kind of object lives in the API."""

    api_version: str
    plural: str

    def path(self, namespace: str = "", name: str = "") -> str:
        """The path of a collection or of one object."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        return "/".join([*parts, self.plural, name] if name else [*parts, self.plural])


RESOURCES: Mapping[str, Resource] = {
    names.KIND: Resource(f"{names.API_GROUP}/{names.API_VERSION}", names.PLURAL),
    "StatefulSet": Resource("apps/v1", "statefulsets"),
    "ControllerRevision": Resource("apps/v1", "controllerrevisions"),
    "Job": Resource("batch/v1", "jobs"),
    "Node": Resource("v1", "nodes"),
    "Deployment": Resource("apps/v1", "deployments"),
    "Service": Resource("v1", "services"),
    "ConfigMap": Resource("v1", "configmaps"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "Secret": Resource("v1", "secrets"),
    "Pod": Resource("v1", "pods"),
    "Event": Resource("v1", "events"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "ServiceMonitor": Resource("monitoring.coreos.com/v1", "servicemonitors"),
    "PrometheusRule": Resource("monitoring.coreos.com/v1", "prometheusrules"),
    "RoleBinding": Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
}
