"""What the API server keeps of a service: objects with identities and versions, on plain dicts."""

import copy
import itertools

from openinference_operator.operations import Annotate, Apply, Create, Delete, Resize


class ApiConflict(Exception):
    """409 of the model API server."""


class Objects(dict):
    """By kind and name."""

    def __init__(self):
        super().__init__()
        self._versions, self._uids = itertools.count(1), itertools.count(1)

    def perform(self, operation, now):
        """Apply one operation; a StatefulSet that is deleted stays until its pods have gone.

        now: as text. Raises ApiConflict.
        """
        match operation:
            case Create(manifest):
                if _key(manifest) in self:
                    raise ApiConflict(_key(manifest))
                self._write(manifest, now)
            case Apply(manifest, _):
                self._write(manifest, now)
            case Annotate(reference, annotations):
                metadata = self._exact(reference)["metadata"]
                kept = metadata.get("annotations", {}) | annotations
                metadata["annotations"] = {
                    key: value for key, value in kept.items() if value is not None
                }
                metadata["resourceVersion"] = self._next_version()
            case Resize(reference, pods, annotations):
                self.perform(Annotate(reference, annotations), now)
                self["StatefulSet", reference.name]["spec"]["replicas"] = pods
            case Delete(reference):
                metadata = self._exact(reference)["metadata"]
                if reference.kind == "StatefulSet":
                    metadata["deletionTimestamp"] = now
                    metadata["resourceVersion"] = self._next_version()
                else:
                    del self[reference.kind, reference.name]

    def _write(self, manifest, now):
        obj = copy.deepcopy(manifest)
        metadata, before = obj["metadata"], self.get(_key(manifest), {}).get("metadata", {})
        metadata |= {
            "uid": before.get("uid") or f"uid-{next(self._uids)}",
            "resourceVersion": self._next_version(),
            "creationTimestamp": before.get("creationTimestamp") or now,
        }
        if before:
            kept = before.get("annotations", {})
            metadata["annotations"] = kept | metadata.get("annotations", {})
        self[_key(manifest)] = obj

    def _exact(self, reference):
        obj = self.get((reference.kind, reference.name))
        expected = (reference.uid, reference.resource_version)
        found = obj and (obj["metadata"]["uid"], obj["metadata"]["resourceVersion"])
        if found != expected:
            raise ApiConflict(reference)
        return obj

    def _next_version(self):
        return str(next(self._versions))


def _key(manifest):
    return manifest["kind"], manifest["metadata"]["name"]
