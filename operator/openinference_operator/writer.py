"""Every write for an InferenceService goes through here: only under the lease, never over an
object that is not ours, and remembered in the store at once.

An object is ours when it carries our label and belongs to the same InferenceService. One that the
store does not hold is applied on condition that there is none of its name; only if there is one it
is looked up.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from openinference_operator import names
from openinference_operator.cluster import Cluster
from openinference_operator.errors import AlreadyExists, Conflict, NameConflict, NotFound
from openinference_operator.lease import Lease
from openinference_operator.observe import is_owned_by
from openinference_operator.operations import (
    Annotate,
    Apply,
    Create,
    Delete,
    Operation,
    Resize,
    strides,
)
from openinference_operator.store import Object, Store, service_of

UNBORN = "1"  # no object has this version: the first write to an empty etcd makes number 2


class Writer:
    """Performs operations in their order; the first that fails ends the plan."""

    def __init__(self, cluster: Cluster, lease: Lease, store: Store) -> None:
        self._cluster = cluster
        self._lease = lease
        self._store = store

    async def perform(self, operations: Iterable[Operation]) -> bool:
        """Perform a plan in order; return whether the cluster is another one for it.

        Raises NameConflict, LeaseLost or ApiError at the first operation that fails.
        """
        has_changed = False
        for stride in strides(operations):
            self._lease.check()
            done = await asyncio.gather(*map(self._perform, stride), return_exceptions=True)
            for result in done:
                if isinstance(result, BaseException):
                    raise result
                has_changed |= result
        return has_changed

    async def write_status(self, raw: Object, status: Mapping[str, Any]) -> None:
        """Write the status of an InferenceService unless it says so already."""
        metadata = raw["metadata"]
        present = self._store.service(metadata["namespace"], metadata["name"]) or raw
        if (present.get("status") or {}) == status:
            return
        self._lease.check()
        manifest = {
            "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
            "kind": names.KIND,
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "status": dict(status),
        }
        self._store.put(await self._cluster.apply(manifest, force=True, subresource="status"))

    async def _perform(self, operation: Operation) -> bool:
        match operation:
            case Create(manifest):
                return await self._create(manifest)
            case Apply(manifest, exists=True):
                return self._store.put(await self._cluster.apply(manifest, force=True))
            case Apply(manifest):
                return self._store.put(await self._make(manifest))
            case Annotate(reference, annotations):
                return self._store.put(await self._cluster.annotate(reference, annotations))
            case Resize(reference, pods, annotations):
                return self._store.put(await self._cluster.annotate(reference, annotations, pods))
            case Delete(reference):
                answer = await self._cluster.delete(reference)
                if answer.get("kind") == reference.kind:
                    self._store.put(answer)
                return True

    async def _create(self, manifest: Mapping[str, Any]) -> bool:
        try:
            return self._store.put(await self._cluster.create(manifest))
        except AlreadyExists:
            return await self._find_ours(manifest)

    async def _make(self, manifest: Mapping[str, Any]) -> Object:
        """Apply an object that should not be there yet. Raises NameConflict if not ours."""
        unborn = {**manifest, "metadata": manifest["metadata"] | {"resourceVersion": UNBORN}}
        try:
            return await self._cluster.apply(unborn, force=False)
        except Conflict:
            ours = await self._find_ours(manifest)
            self._lease.check()
            return await self._cluster.apply(manifest, force=ours)

    async def _find_ours(self, manifest: Mapping[str, Any]) -> bool:
        """Whether an object of that name is there, and ours. Raises NameConflict if not ours."""
        return await self._look_up(manifest) is not None

    async def _look_up(self, manifest: Mapping[str, Any]) -> Object | None:
        kind, metadata = manifest["kind"], manifest["metadata"]
        try:
            present = await self._cluster.get(kind, metadata["namespace"], metadata["name"])
        except NotFound:
            return None
        labels = present["metadata"].get("labels") or {}
        is_ours = labels.get(names.LABEL_MANAGED_BY) == names.FIELD_MANAGER
        if not is_ours or service_of(present) != service_of(manifest):
            raise NameConflict(kind, metadata["name"])
        owner = metadata["ownerReferences"][0]
        if owner.get("controller") and not is_owned_by(present, owner["uid"]):
            raise Conflict(409, f"{kind} {metadata['name']} belongs to an earlier InferenceService")
        self._store.put(present)
        return present
