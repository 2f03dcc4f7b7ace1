"""The newest version of every object of ours that this operator has seen.

Watches fill the store, and so does each answer to an own write: a worker that plans again right
after it wrote sees its write, even when the watch is late. The higher resourceVersion wins, and
an object that is gone does not come back through a late answer. One that only lost its label, which
a watch by label tells as a deletion, comes back in the version that has it again.

The store knows nothing of what the objects mean; `slim` says what of them is worth keeping.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from openinference_operator import names
from openinference_operator.slim import slim

Object: TypeAlias = Mapping[str, Any]

REMEMBERED_DELETIONS = 10_000  # late answers come within seconds; this many deletions do not


class Store:
    """Objects by kind, namespace and the InferenceService they belong to."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], dict[str, Object]] = {}
        self._claims: dict[tuple[str, str], set[str]] = {}
        self._gone_since: dict[str, float] = {}  # version of its deletion, by uid

    def put(self, obj: Object) -> bool:
        """Keep an object unless it is known already, in this or a newer version, or deleted.

        Returns whether it was news.
        """
        metadata = obj["metadata"]
        bucket = self._objects.setdefault(_bucket(obj), {})
        present = bucket.get(metadata["name"])
        is_old = present is not None and _version(present) >= _version(obj)
        if is_old or _version(obj) <= self._gone_since.get(metadata["uid"], 0):
            return False
        self._forget_claim(present)
        bucket[metadata["name"]] = slim(obj)
        if claim := _claim(obj):
            self._claims.setdefault(claim, set()).add(metadata["name"])
        return True

    def remove(self, obj: Object) -> None:
        """Forget an object that was deleted, unless its name is taken by a new one."""
        self._remove(obj, _version(obj))

    def _remove(self, obj: Object, version: float) -> None:
        metadata = obj["metadata"]
        self._gone_since[metadata["uid"]] = version
        if len(self._gone_since) > REMEMBERED_DELETIONS:
            self._gone_since.pop(next(iter(self._gone_since)))
        bucket = self._objects.get(_bucket(obj), {})
        present = bucket.get(metadata["name"])
        if present and present["metadata"]["uid"] == metadata["uid"]:
            del bucket[metadata["name"]]
            self._forget_claim(present)
        if not bucket:
            self._objects.pop(_bucket(obj), None)

    def select(self, kind: str, namespace: str, service: str) -> list[Object]:
        """All objects of a kind that belong to one InferenceService, ordered by name.

        `service` is empty for what belongs to none: routers, and the InferenceServices themselves.
        """
        bucket = self._objects.get((kind, namespace, service), {})
        return [bucket[name] for name in sorted(bucket)]

    def all_services(self) -> list[Object]:
        """All InferenceServices of all namespaces, in no order."""
        return self._of_kind(names.KIND)

    def all_pods(self) -> list[Object]:
        """All pods of all namespaces that are ours, in no order."""
        return self._of_kind("Pod")

    def services(self, namespace: str) -> list[Object]:
        """All InferenceServices of a namespace, ordered by name."""
        return self.select(names.KIND, namespace, "")

    def service(self, namespace: str, name: str) -> Object | None:
        """One InferenceService."""
        return self._objects.get((names.KIND, namespace, ""), {}).get(name)

    def claimants(self, namespace: str, model: str) -> list[Object]:
        """The InferenceServices of a namespace that ask for one model name, ordered by name."""
        bucket = self._objects.get((names.KIND, namespace, ""), {})
        return [bucket[name] for name in sorted(self._claims.get((namespace, model), ()))]

    def uids(self, kind: str) -> frozenset[str]:
        """The identities of all objects of a kind."""
        return frozenset(obj["metadata"]["uid"] for obj in self._of_kind(kind))

    def forget_all(self, kind: str, uids: Collection[str]) -> list[Object]:
        """Remove what was known before a complete list but is not in it; return what it was.

        A watch that had to list again reports no deletion for what vanished meanwhile.
        """
        missing = [obj for obj in self._of_kind(kind) if obj["metadata"]["uid"] in uids]
        for obj in missing:
            self._remove(obj, math.inf)  # in which version it went nobody knows
        return missing

    def _forget_claim(self, obj: Object | None) -> None:
        claim = _claim(obj) if obj else None
        if obj is None or claim is None:
            return
        claimants = self._claims.get(claim, set())
        claimants.discard(obj["metadata"]["name"])
        if not claimants:
            self._claims.pop(claim, None)

    def _of_kind(self, kind: str) -> list[Object]:
        return [
            obj
            for (held_kind, _, _), bucket in self._objects.items()
            if held_kind == kind
            for obj in bucket.values()
        ]


def service_of(obj: Object) -> str:
    """The InferenceService that an object is or belongs to; empty for objects of the router."""
    if obj["kind"] == names.KIND:
        return str(obj["metadata"]["name"])
    return str((obj["metadata"].get("labels") or {}).get(names.LABEL_SERVICE, ""))


def _claim(obj: Object) -> tuple[str, str] | None:
    """The namespace and the model name that an InferenceService asks for, whatever else it says."""
    spec: Any = obj.get("spec")
    said: Any = spec.get("model") if isinstance(spec, Mapping) else None
    if obj["kind"] != names.KIND or not isinstance(said, Mapping):
        return None
    name: Any = said.get("name") or obj["metadata"]["name"]
    return (obj["metadata"]["namespace"], name) if isinstance(name, str) else None


def _bucket(obj: Object) -> tuple[str, str, str]:
    service = "" if obj["kind"] == names.KIND else service_of(obj)
    return obj["kind"], obj["metadata"]["namespace"], service


def _version(obj: Object) -> int:
    # Versions of one kind of object may be compared as numbers since Kubernetes 1.35 (KEP-5504),
    # and always could be with etcd behind the API server.
    return int(obj["metadata"]["resourceVersion"])
