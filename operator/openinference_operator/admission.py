"""Which nodes would take a pod of a service if they were empty, and what GPUs these have: pure.

By labels and taints, as the scheduler judges; which nodes an affinity allows it alone knows.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from openinference_operator.fields import parse_quantity
from openinference_operator.manifests.common import Manifest
from openinference_operator.manifests.placement import placed
from openinference_operator.parallelism_spec import GPU_RESOURCE
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"  # in MiB, as GPU feature discovery says
REPELLING = ("NoSchedule", "NoExecute")
PASSING = "node.kubernetes.io/"  # Kubernetes' own taints: a node is not ready, or cordoned


def admitting(service: InferenceService, nodes: Iterable[Object]) -> list[Object]:
    """The nodes that would take a pod now."""
    spec = _admitted(service)
    return [node for node in nodes if not _is_cordoned(node) and _admits(node, spec, _taints(node))]


def gpu_memories(service: InferenceService, nodes: Iterable[Object]) -> tuple[int, ...]:
    """Bytes of one GPU for every place that nodes could have for a pod, as far as they say.

    Also of those that take none for a while: what a model fits into does not change by that.
    """
    spec, found = _admitted(service), []
    for node in nodes:
        lasting = [taint for taint in _taints(node) if not taint["key"].startswith(PASSING)]
        mebibytes = str(_labels(node).get(GPU_MEMORY_LABEL, ""))
        if mebibytes.isdigit() and _admits(node, spec, lasting):
            found += [int(mebibytes) << 20] * (_gpus(node) // service.gpus_per_pod)
    return tuple(sorted(found))


def _admitted(service: InferenceService) -> Manifest:
    """What places its pods. Where GPU nodes are tainted, admission lets those who ask for GPUs on
    them (ExtendedResourceToleration), and no template says so."""
    spec = placed(service)
    if service.gpus_per_pod:
        spec["tolerations"].append({"key": GPU_RESOURCE, "operator": "Exists"})
    return spec


def _admits(node: Object, pod_spec: Mapping[str, Any], taints: Iterable[Mapping[str, Any]]) -> bool:
    labels, tolerations = _labels(node), pod_spec["tolerations"]
    is_chosen = all(labels.get(name) == value for name, value in pod_spec["nodeSelector"].items())
    return is_chosen and all(
        any(_tolerates(each, taint) for each in tolerations) for taint in taints
    )


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """As Kubernetes has it: what a toleration leaves out holds for every taint."""
    is_for_any_value = toleration.get("operator") == "Exists"
    return (
        toleration.get("effect") in (None, "", taint["effect"])
        and (
            toleration.get("key") == taint["key"]
            or (is_for_any_value and not toleration.get("key"))
        )
        and (is_for_any_value or toleration.get("value", "") == taint.get("value", ""))
    )


def _taints(node: Object) -> list[Mapping[str, Any]]:
    """Those that keep pods out."""
    taints = (node.get("spec") or {}).get("taints") or []
    return [taint for taint in taints if taint["effect"] in REPELLING]


def _is_cordoned(node: Object) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def _labels(node: Object) -> Mapping[str, Any]:
    return node["metadata"].get("labels") or {}


def _gpus(node: Object) -> int:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return int(parse_quantity(str(allocatable.get(GPU_RESOURCE, "0"))) or 0)
