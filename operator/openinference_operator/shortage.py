"""Why a pod finds no node, in numbers: what it needs on one node, and the most that is free on any.

The scheduler says how many nodes lack a resource, not how much of it. Pure, on nodes and pods as
the API server lists them.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

from openinference_operator.fields import parse_quantity
from openinference_operator.sizing import human
from openinference_operator.store import Object

ENDED = ("Succeeded", "Failed")
REPELLING = ("NoSchedule", "NoExecute")

Used: TypeAlias = dict[str, dict[str, Decimal]]  # by node and resource


def requests_of(pod: Object) -> dict[str, Decimal]:
    """What the scheduler reserves for a pod: its containers together, or the largest init one."""
    spec = pod["spec"]
    total: dict[str, Decimal] = {}
    for container in spec.get("containers") or []:
        for name, amount in _requests(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    for container in spec.get("initContainers") or []:
        for name, amount in _requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return total


def reserve(used: Used, pod: Object) -> None:
    """Add what a pod takes to what is used on its node; nothing before it has one or once ended."""
    node = pod["spec"].get("nodeName")
    if node is None or pod.get("status", {}).get("phase") in ENDED:
        return
    total = used.setdefault(node, {})
    for name, amount in requests_of(pod).items():
        total[name] = total.get(name, Decimal(0)) + amount


def admits(node: Object, pod_spec: Mapping[str, Any]) -> bool:
    """Whether a node would take a pod if it were empty: by its labels, and by its taints."""
    labels, spec = node["metadata"].get("labels") or {}, node.get("spec") or {}
    selector, tolerations = pod_spec["nodeSelector"], pod_spec["tolerations"]
    is_chosen = all(labels.get(name) == value for name, value in selector.items())
    kept_out = (taint for taint in spec.get("taints") or [] if taint["effect"] in REPELLING)
    return (
        is_chosen
        and not spec.get("unschedulable")
        and all(any(_tolerates(each, taint) for each in tolerations) for taint in kept_out)
    )


def explain(lacking: Mapping[str, Decimal], nodes: Sequence[Object], used: Used) -> str:
    """What is `lacking`, beside the most that is free on these nodes; empty without any."""
    if not nodes:
        return ""
    return "; ".join(_sentence(name, needed, nodes, used) for name, needed in lacking.items())


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


def _sentence(resource: str, needed: Decimal, nodes: Iterable[Object], used: Used) -> str:
    free = {
        node["metadata"]["name"]: _allocatable(node, resource)
        - used.get(node["metadata"]["name"], {}).get(resource, Decimal(0))
        for node in nodes
    }
    name, most = max(free.items(), key=lambda entry: (entry[1], entry[0]))
    largest = f"{_amount(resource, most)} on node {name}" if most > 0 else "0"
    return f"needs {_amount(resource, needed)} {resource} on one node, largest free is {largest}"


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    """A limit alone is a request, too."""
    resources = container.get("resources") or {}
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: parse_quantity(str(amount)) or Decimal(0) for name, amount in given.items()}


def _allocatable(node: Object, resource: str) -> Decimal:
    amounts = node.get("status", {}).get("allocatable") or {}
    return parse_quantity(str(amounts.get(resource, 0))) or Decimal(0)


def _amount(resource: str, amount: Decimal) -> str:
    if resource in ("memory", "ephemeral-storage"):
        return human(int(amount))
    return f"{amount.normalize():f}"
