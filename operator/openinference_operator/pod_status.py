"""What a pod says of itself, as the API server shows it: its conditions and its containers."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from openinference_operator import names

RawPod: TypeAlias = Mapping[str, Any]


def condition(raw: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of an object by its type; empty when it is missing."""
    conditions = raw.get("status", {}).get("conditions") or []
    found: Mapping[str, Any] = next((entry for entry in conditions if entry["type"] == kind), {})
    return found


def own_status(raw: RawPod) -> Mapping[str, Any]:
    """The state of a pod's own container; empty before it has one."""
    return own_container(raw, raw.get("status", {}).get("containerStatuses"))


def own_container(raw: RawPod, containers: Iterable[Mapping[str, Any]] | None) -> Mapping[str, Any]:
    """The one that bears its component's name; others may be of a mesh. Empty if it is missing."""
    return named(raw["metadata"]["labels"].get(names.LABEL_COMPONENT), containers)


def named(name: str | None, containers: Iterable[Mapping[str, Any]] | None) -> Mapping[str, Any]:
    """The container, or the state of one, that bears a name. Empty if it is missing."""
    empty: Mapping[str, Any] = {}
    return next((each for each in containers or () if each["name"] == name), empty)


def end_of(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """How it ended, now or the last time; empty if it never did."""
    now, before = container.get("state", {}), container.get("lastState", {})
    ended: Mapping[str, Any] = now.get("terminated") or before.get("terminated") or {}
    return ended
