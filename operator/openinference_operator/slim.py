"""What is kept of an object: what some decision reads. Of thousands of pods that is little.

Keys are interned, because each object that is parsed brings its own copy of every key.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]


def slim(obj: Fields) -> Fields:
    """A copy of an object without what nobody asks about."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    kept = {**obj, "metadata": metadata}
    if obj["kind"] in REDUCED:
        kept["spec"] = REDUCED[obj["kind"]](obj.get("spec") or {})
    interned: Fields = _interned(kept)
    return interned


def _pod_spec(spec: Fields) -> Fields:
    """Where a pod is, and what its containers ask for."""
    containers = {
        field: [_container(each) for each in spec[field] or []]
        for field in ("containers", "initContainers")
        if field in spec
    }
    return {**containers, **{key: spec[key] for key in ("nodeName", "overhead") if key in spec}}


def _container(container: Fields) -> Fields:
    return {
        key: container[key] for key in ("name", "resources", "restartPolicy") if key in container
    }


def _number_of_pods(spec: Fields) -> Fields:
    """A group's template is kept by its revision; the group's own copy is never compared."""
    return {key: spec[key] for key in ("replicas",) if key in spec}


REDUCED: Mapping[str, Callable[[Fields], Fields]] = {
    "Pod": _pod_spec,
    "StatefulSet": _number_of_pods,
}


def _interned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {sys.intern(key): _interned(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_interned(entry) for entry in value]
    return value
