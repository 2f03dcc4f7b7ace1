"""What is kept of an object: what some decision reads, which is little of all of it.

Keys are interned, because each object that is parsed brings its own copy of every key.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]


def slim(obj: Fields) -> Fields:
    """A copy of an object without what nobody asks about."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    reduced = REDUCED[obj["kind"]](obj) if obj["kind"] in REDUCED else {}
    interned: Fields = _interned({**obj, "metadata": metadata, **reduced})
    return interned


def _pod(pod: Fields) -> Fields:
    """Where a pod is, and what its containers ask for."""
    spec = pod.get("spec") or {}
    containers = {
        field: [_container(each) for each in spec[field] or []]
        for field in ("containers", "initContainers")
        if field in spec
    }
    return {"spec": {**containers, **_only(spec, "nodeName", "overhead")}}


def _container(container: Fields) -> Fields:
    return _only(container, "name", "resources", "restartPolicy")


def _statefulset(group: Fields) -> Fields:
    """A group's template is kept by its revision; the group's own copy is never compared."""
    return {"spec": _only(group.get("spec") or {}, "replicas")}


def _node(node: Fields) -> Fields:
    """What pods it takes, and how many."""
    return {
        "metadata": _only(node["metadata"], "name", "labels"),
        "spec": _only(node.get("spec") or {}, "taints", "unschedulable"),
        "status": _only(node.get("status") or {}, "allocatable"),
    }


def _only(fields: Fields, *names: str) -> Fields:
    return {name: fields[name] for name in names if name in fields}


REDUCED: Mapping[str, Callable[[Fields], Fields]] = {
    "Pod": _pod,
    "StatefulSet": _statefulset,
    "Node": _node,
}


def _interned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {sys.intern(key): _interned(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_interned(entry) for entry in value]
    return value
