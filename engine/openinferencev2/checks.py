"""What `openinference doctor` finds: pure rules over facts that were read from the cluster.

Each rule looks at one thing and says what is well, doubtful or broken, always with the number or
object behind it, and with the remedy where there is something to mend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from openinferencev2 import services
from openinferencev2.kubectl import Json

OLDEST_KUBERNETES = (1, 29)  # CEL rules of the CRD that compare quantities; the chart asks for it
GPU = "nvidia.com/gpu"
GPU_HINT = "feature.node.kubernetes.io/pci-10de.present"  # node-feature-discovery saw NVIDIA's id

Level = Literal["good", "busy", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`level`: good, busy (doubtful) or bad, as everywhere in this command line."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read; a list that could not be read is None, with the reason in `unread`."""

    server_version: str = ""
    crd: Json | None = None
    permissions: dict[str, bool] = field(default_factory=dict)
    operators: list[Json] | None = None
    router: Json | None = None
    services: list[Json] | None = None
    nodes: list[Json] | None = None
    driver: str = ""
    unread: dict[str, str] = field(default_factory=dict)


def examine(facts: Facts) -> list[Finding]:
    """Every finding, in the order in which one would look."""
    rules = (_version, _crd, _permissions, _operator, _router, _gpus, _services)
    return [finding for rule in rules for finding in rule(facts)]


def _version(facts: Facts) -> Iterator[Finding]:
    found = re.match(r"v?(\d+)\.(\d+)", facts.server_version)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version >= OLDEST_KUBERNETES:
        yield Finding("good", "Kubernetes", facts.server_version)
    else:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        message = f"{facts.server_version} is too old"
        yield Finding("bad", "Kubernetes", message, f"upgrade to {oldest} or newer")


def _crd(facts: Facts) -> Iterator[Finding]:
    if facts.crd is not None:
        versions = [each["name"] for each in facts.crd["spec"]["versions"] if each["served"]]
        yield Finding("good", "API", f"InferenceService {', '.join(versions)}")
    elif "crd" in facts.unread:
        if facts.services is None:
            yield Finding(
                "bad",
                "API",
                f"InferenceServices cannot be read: {facts.unread['crd']}",
                "install the chart openinference, which brings the CRD",
            )
        else:
            yield Finding("good", "API", "InferenceService (its CRD may not be read, it works)")


def _permissions(facts: Facts) -> Iterator[Finding]:
    missing = [name for name, is_allowed in facts.permissions.items() if not is_allowed]
    if missing:
        yield Finding(
            "bad",
            "Permissions",
            f"you may not {', '.join(missing)}",
            "ask for the ClusterRole 'edit' in this namespace; the chart adds to it",
        )
    elif facts.permissions:
        yield Finding("good", "Permissions", "you may do all that this command line does")


def _operator(facts: Facts) -> Iterator[Finding]:
    if facts.operators is None:
        reason = facts.unread.get("operators", "")
        yield Finding("busy", "Operator", f"it cannot be seen: {reason}", "ask its administrator")
        return
    if not facts.operators:
        yield Finding("bad", "Operator", "there is none", "install the chart openinference")
    for each in facts.operators:
        name, ready, wanted = _deployment(each)
        if ready:
            yield Finding("good", "Operator", f"{name}: {ready} of {wanted} pods Ready")
        elif wanted == 0:
            yield Finding(
                "bad", "Operator", f"{name} is scaled to 0", f"kubectl scale {name} --replicas=2"
            )
        else:
            yield Finding(
                "bad", "Operator", f"{name}: 0 of {wanted} pods Ready", f"kubectl describe {name}"
            )


def _router(facts: Facts) -> Iterator[Finding]:
    if not facts.services:
        return  # the operator makes it with the first service
    if facts.router is None:
        yield Finding(
            "bad", "Router", "this namespace has none", "the operator makes it: see Operator above"
        )
        return
    name, ready, wanted = _deployment(facts.router)
    if ready:
        yield Finding("good", "Router", f"{ready} of {wanted} pods Ready")
    else:
        yield Finding("bad", "Router", f"0 of {wanted} pods Ready", f"kubectl describe {name}")


def _gpus(facts: Facts) -> Iterator[Finding]:
    nodes = facts.nodes or []
    for node in nodes:
        name = node["metadata"]["name"]
        if node["metadata"].get("labels", {}).get(GPU_HINT) == "true" and not _num_gpus(node):
            yield Finding(
                "bad",
                "GPUs",
                f"node {name} has an NVIDIA device that Kubernetes does not offer",
                "install NVIDIA's driver and device plugin (GPU operator) there",
            )
    total = sum(map(_num_gpus, nodes))
    driver = f"; here: {facts.driver}" if facts.driver else ""
    if facts.nodes is None:
        yield Finding("busy", "GPUs", f"nodes cannot be read{driver}")
    else:
        yield Finding("good", "GPUs", f"{total} in the cluster of {len(nodes)} nodes{driver}")


def _num_gpus(node: Json) -> int:
    return int(node["status"].get("allocatable", {}).get(GPU, "0"))


def _services(facts: Facts) -> Iterator[Finding]:
    for service in facts.services or []:
        name, state = service["metadata"]["name"], services.state(service)
        level: Level = "good" if state.tone == "asleep" else state.tone
        remedy = services.remedy(state.reason) if level != "good" else ""
        yield Finding(level, f"Service {name}", f"{state.reason}: {state.message}", remedy)
        scaling = services.condition(service, "ScalingActive")
        if scaling.get("reason") in ("FallbackDemand", "MetricsUnavailable"):
            remedy = services.remedy(scaling["reason"])
            yield Finding("busy", f"Service {name}", scaling["message"], remedy)


def _deployment(found: Json) -> tuple[str, int, int]:
    """How to name it for kubectl, its Ready pods, and how many it should have."""
    metadata = found["metadata"]
    name = f"deployment/{metadata['name']} --namespace={metadata['namespace']}"
    return name, found["status"].get("readyReplicas", 0), found["spec"].get("replicas", 1)
