"""What runs inside every local cluster: CoreDNS (embedded only) and Prometheus.

The YAML files in `manifests/` are complete but for a few `$names`. Rendering is pure; applying
is server-side, so that applying again changes nothing, and `up` can do so each time.
"""

import hashlib
import json
from collections.abc import Mapping
from string import Template

from e2e.cluster import places
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.kubectl import kubectl
from e2e.cluster.runtime import CLUSTER_PROGRAMS


def coredns(plan: AddressPlan) -> str:
    """The name service of the cluster, at the address that every kubelet hands to its pods."""
    names = {"programs": CLUSTER_PROGRAMS, "dns_address": str(plan.dns_service)}
    return _rendered("coredns", names)


def prometheus(prometheus_image: str, python_image: str, first_node: str) -> str:
    """The monitoring of the cluster; a changed configuration restarts it."""
    sidecar = (places.SOURCES / "scrape_targets.py").read_text()
    configuration = _text("prometheus") + sidecar
    names = {
        "prometheus_image": prometheus_image,
        "python_image": python_image,
        "first_node": first_node,
        "configuration_hash": hashlib.sha256(configuration.encode()).hexdigest()[:16],
    }
    sources = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "scrape-targets", "namespace": "monitoring"},
        "data": {"scrape_targets.py": sidecar},
    }
    return f"{_rendered('prometheus', names)}---\n{json.dumps(sources)}\n"


def apply(manifest: str) -> None:
    """Bring the objects of a manifest about, taking over fields that somebody else changed."""
    kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=manifest)


def _rendered(name: str, names: Mapping[str, str]) -> str:
    return Template(_text(name)).substitute(names)


def _text(name: str) -> str:
    return (places.SOURCES / "manifests" / f"{name}.yaml").read_text()
