"""Why a pod finds no node, in numbers: what it needs on one node, and the most that is free on any.

The scheduler says how many nodes lack a resource, not how much of it. Pure, on nodes and pods as
the API server lists them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial, reduce
from operator import add
from typing import Any, TypeAlias

from openinference_operator.fields import parse_quantity
from openinference_operator.sizing import human
from openinference_operator.store import Object

ENDED = ("Succeeded", "Failed")

Amounts: TypeAlias = dict[str, Decimal]  # by resource
Used: TypeAlias = dict[str, Amounts]  # by node


def requests_of(pod: Object) -> Amounts:
    """What the scheduler reserves for a pod: its containers together, or the largest init one.

    Sidecars, which are init containers that go on, run beside all that start after them.
    """
    spec = pod["spec"]
    sidecars: Amounts = {}
    largest: Amounts = {}
    for container in spec.get("initContainers") or []:
        beside = _merged(add, sidecars, _requests(container))
        if container.get("restartPolicy") == "Always":
            sidecars = beside
        else:
            largest = _merged(max, largest, beside)
    containers = map(_requests, spec.get("containers") or [])
    together = reduce(partial(_merged, add), containers, sidecars)
    return _merged(add, _merged(max, together, largest), _amounts(spec.get("overhead") or {}))


def reserve(used: Used, pod: Object) -> None:
    """Add what a pod takes to what is used on its node; nothing before it has one or once ended."""
    node = pod["spec"].get("nodeName")
    if node is None or pod.get("status", {}).get("phase") in ENDED:
        return
    used[node] = _merged(add, used.get(node, {}), requests_of(pod))


def explain(lacking: Mapping[str, Decimal], nodes: Sequence[Object], used: Used) -> str:
    """What is `lacking`, beside the most that is free on these nodes; empty without any."""
    if not nodes:
        return ""
    return "; ".join(_sentence(name, needed, nodes, used) for name, needed in lacking.items())


def _sentence(resource: str, needed: Decimal, nodes: Iterable[Object], used: Used) -> str:
    free = {
        node["metadata"]["name"]: _allocatable(node, resource)
        - used.get(node["metadata"]["name"], {}).get(resource, Decimal(0))
        for node in nodes
    }
    name, most = max(free.items(), key=lambda entry: (entry[1], entry[0]))
    largest = f"{_amount(resource, most)} on node {name}" if most > 0 else "0"
    return f"needs {_amount(resource, needed)} {resource} on one node, largest free is {largest}"


def _requests(container: Mapping[str, Any]) -> Amounts:
    """A limit alone is a request, too."""
    resources = container.get("resources") or {}
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amounts(given: Mapping[str, Any]) -> Amounts:
    return {name: parse_quantity(str(amount)) or Decimal(0) for name, amount in given.items()}


def _merged(
    combine: Callable[[Decimal, Decimal], Decimal], some: Amounts, others: Amounts
) -> Amounts:
    """By resource; what one of them lacks is none of it."""
    none = Decimal(0)
    return {name: combine(some.get(name, none), others.get(name, none)) for name in some | others}


def _allocatable(node: Object, resource: str) -> Decimal:
    amounts = node.get("status", {}).get("allocatable") or {}
    return parse_quantity(str(amounts.get(resource, 0))) or Decimal(0)


def _amount(resource: str, amount: Decimal) -> str:
    if resource in ("memory", "ephemeral-storage"):
        return human(int(amount))
    return f"{amount.normalize():f}"
