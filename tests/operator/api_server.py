"""A model of the API server over real HTTP, for the parts of the operator that talk to one."""

import itertools
import json
import time

from aiohttp import web
from openinference_operator import names, timestamps
from openinference_operator.resources import RESOURCES


class ApiServer:
    """Objects by path, with identities, versions, preconditions and owners of fields."""

    def __init__(self):
        self.objects = {}
        self.calls = []
        self.failures = []
        self.refused = ""
        self.failing = ""
        self.knows_monitoring = False
        self.initializing = 0
        self.forbidden = ""
        self.vanishing = ""  # path of an object that is deleted right after it was read
        self._numbers = itertools.count(1)

    async def handle(self, request):
        if "/leases/" not in request.path:  # they come with the clock, whatever a test does
            self.calls.append((request.method, request.path))
        if request.path.startswith("/apis/monitoring.coreos.com") and not self.knows_monitoring:
            return web.Response(status=404, text="404 page not found\n")
        if request.path.startswith("/apis/monitoring.coreos.com") and self.initializing:
            self.initializing -= 1
            return error(429, "storage is (re)initializing")
        if self.forbidden and request.path.endswith(self.forbidden):
            return error(403, "Forbidden")
        if self.failures:
            return error(self.failures.pop(0), "Internal")
        if self.failing and request.method == "POST" and request.path.endswith(self.failing):
            return error(500, "failed calling webhook")
        if self.refused and request.method == "POST" and request.path.endswith(self.refused):
            return error(422, "Invalid")
        body = json.loads(await request.text() or "null")
        path = request.path.removesuffix("/status")
        return getattr(self, f"_{request.method.lower()}")(path, body, request)

    def put(self, kind, name, **fields):
        """Place an object that somebody else made."""
        metadata = {"name": name, "namespace": "team-a", **fields.pop("metadata", {})}
        path = RESOURCES[kind].path("team-a", name)
        return self._store(path, {"kind": kind, "metadata": metadata, **fields}, "somebody")

    def _get(self, path, _, request):
        if path in self.objects:
            take = self.objects.pop if path == self.vanishing else self.objects.get
            return web.json_response(take(path))
        prefix = f"{path}/"
        if path.rsplit("/", 1)[1] in {resource.plural for resource in RESOURCES.values()}:
            items = [obj for place, obj in self.objects.items() if place.startswith(prefix)]
            start, limit = int(request.query.get("continue") or 0), int(request.query["limit"])
            more = {"continue": str(start + limit)} if len(items) > start + limit else {}
            page = items[start : start + limit]
            return web.json_response({"items": page, "metadata": more})
        return error(404, "NotFound")

    def _post(self, path, body, _):
        path = f"{path}/{body['metadata']['name']}"
        if path in self.objects:
            return error(409, "AlreadyExists")
        return web.json_response(self._store(path, body, names.FIELD_MANAGER), status=201)

    def _put(self, path, body, _):
        present = self.objects[path]
        if body["metadata"]["resourceVersion"] != present["metadata"]["resourceVersion"]:
            return error(409, "Conflict")
        return web.json_response(self._store(path, body, names.FIELD_MANAGER))

    def _patch(self, path, body, request):
        present = self.objects.get(path)
        if request.content_type == "application/merge-patch+json":
            if present is None:
                return error(404, "NotFound")
            given = body["metadata"]
            if any(
                given.get(key) != present["metadata"][key] for key in ("uid", "resourceVersion")
            ):
                return error(409, "Conflict")
            return web.json_response(self._store(path, merged(present, body), "same"))
        if present is None and "uid" in body["metadata"]:
            return error(409, "Conflict")
        version = body["metadata"].get("resourceVersion")
        if present and version not in (None, present["metadata"]["resourceVersion"]):
            return error(409, "Conflict")
        if present and present["manager"] == "somebody" and request.query["force"] == "false":
            return error(409, "Conflict")
        return web.json_response(
            self._store(path, merged(present or {}, body), names.FIELD_MANAGER)
        )

    def _delete(self, path, body, _):
        present = self.objects.get(path)
        if present is None:
            return error(404, "NotFound")
        if any(present["metadata"][key] != value for key, value in body["preconditions"].items()):
            return error(409, "Conflict")
        del self.objects[path]
        return web.json_response({"kind": "Status", "status": "Success"})

    def _store(self, path, obj, manager):
        uid = (
            self.objects.get(path, {}).get("metadata", {}).get("uid")
            or f"uid-{next(self._numbers)}"
        )
        metadata = {
            "creationTimestamp": timestamps.to_text(time.time()),
            **obj["metadata"],
            "uid": uid,
            "resourceVersion": str(next(self._numbers)),
        }
        self.objects[path] = {**obj, "metadata": metadata, "manager": manager}
        return self.objects[path]


def merged(present, patch):
    if not isinstance(patch, dict) or not isinstance(present, dict):
        return patch
    keys = present.keys() | patch.keys()
    return {
        key: merged(present[key], patch[key])
        if key in present and key in patch
        else patch.get(key, present.get(key))
        for key in keys
    }


def error(status, reason):
    body = {"kind": "Status", "reason": reason, "message": f"model says {reason}"}
    if status == 429:
        body["details"] = {"retryAfterSeconds": 1}
    return web.json_response(body, status=status)
