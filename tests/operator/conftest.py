"""Builders of InferenceServices, and a model of a cluster on plain dicts.

`World` holds objects with identities and versions as the API server does, and plays the parts
around the operator: it makes pods for StatefulSets, lets them start and end, and has routers that
read the routing, admit groups and carry requests. `ApiServer` is the same border over real HTTP,
for the parts that talk. Nothing of the operator is replaced.
"""

import asyncio
import copy
import itertools
import json
import time
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from kubernetes.aio import client
from openinference_operator import names, timestamps
from openinference_operator.canary import Verdict
from openinference_operator.cluster import RESOURCES, Cluster
from openinference_operator.course import Evidence
from openinference_operator.lease import Lease
from openinference_operator.manifests.routing import read_routing
from openinference_operator.observe import observe
from openinference_operator.operations import Annotate, Apply, Create, Delete
from openinference_operator.plan import plan_service
from openinference_operator.routers import Router
from openinference_operator.signals.router_state import GroupReport, RouterReport, ServiceReport
from openinference_operator.spec import parse
from openinference_operator.store import Store

NAMESPACE = "team-a"
IMAGE = "engine:1"


def build_service(name="demo", annotations=None, generation=1, **spec):
    """A raw InferenceService; keyword arguments are fields of its spec."""
    return {
        "apiVersion": "openinference.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-of-{name}",
            "generation": generation,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": annotations or {},
        },
        "spec": {"model": {"uri": "package://models/tiny.gguf"}, **spec},
    }


@pytest.fixture
def raw_service():
    return build_service


class ApiConflict(Exception):
    """409 of the model API server."""


@dataclass
class RouterPod:
    """A router of the model: what it has seen of the routing, and its requests by group."""

    name: str
    is_ready: bool = True
    routing: dict = field(default_factory=dict)
    in_flight: dict = field(default_factory=dict)


class World:
    """One InferenceService in a cluster. Time stands still unless `now` is moved."""

    def __init__(self, service, routers=2):
        self.service = service
        self.objects = {}
        self.ready = set()
        self.started = set()
        self.broken = set()
        self.restarts = 0
        self.lost = set()
        self.routers = [RouterPod(f"router-{number}") for number in range(routers)]
        self.now = timestamps.from_text("2026-01-01T00:00:00Z")
        self.desired = None
        self.siblings = []
        self.recreated = []
        self.image = IMAGE
        self.verdict = Verdict()
        self.golden_failure = ""
        self.answers_golden = True
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    # What the operator does.

    def observe(self):
        store = Store()
        for raw in [self.service, *self.siblings]:
            store.put(raw)
        for obj in [*self.objects.values(), *self._pods()]:
            store.put(copy.deepcopy(obj))
        return observe(store, self.parsed, self._router_facts())

    def plan(self):
        return plan_service(
            self.parsed, self.observe(), self.replicas, self.image, self.now, self.evidence()
        )

    def evidence(self):
        """Every group that is ready has answered its golden prompts, if they do answer."""
        answered = self.ready if self.answers_golden else ()
        return Evidence(dict.fromkeys(answered, self.golden_failure), self.verdict)

    def perform(self, operation):
        """Apply one operation as the API server would. Raises ApiConflict."""
        match operation:
            case Create(manifest):
                key = (manifest["kind"], manifest["metadata"]["name"])
                if key in self.objects:
                    raise ApiConflict(key)
                self._write(manifest, f"uid-{next(self._uids)}")
            case Apply(manifest, _):
                present = self.objects.get((manifest["kind"], manifest["metadata"]["name"]))
                uid = present["metadata"]["uid"] if present else f"uid-{next(self._uids)}"
                self._write(manifest, uid)
            case Annotate(reference, annotations):
                obj = self._exact(reference)
                kept = obj["metadata"].get("annotations", {}) | annotations
                obj["metadata"]["annotations"] = {
                    key: value for key, value in kept.items() if value is not None
                }
                obj["metadata"]["resourceVersion"] = str(next(self._versions))
            case Delete(reference) if reference.kind == "Pod":
                self.recreated.append(reference.name)
                self.broken.discard(reference.name.removesuffix("-0"))
            case Delete(reference):
                obj = self._exact(reference)
                if reference.kind == "StatefulSet":
                    obj["metadata"]["deletionTimestamp"] = timestamps.to_text(self.now)
                    obj["metadata"]["resourceVersion"] = str(next(self._versions))
                else:
                    del self.objects[reference.kind, reference.name]

    def reconcile(self, crash_after=None):
        """Run one plan; a crash leaves the rest of its operations undone."""
        plan = self.plan()
        for operation in plan.operations[:crash_after]:
            self.perform(operation)
        return plan

    # What the others do.

    def start_pods(self, groups=None):
        """Let pods pass their startup probe, all or those of some groups."""
        able = set(self.groups if groups is None else groups) - self.broken - self.lost
        self.ready |= able
        self.started |= able

    def end_pods(self):
        """Let deleted StatefulSets and their pods go."""
        for group, obj in list(self.groups.items()):
            if "deletionTimestamp" in obj["metadata"] and group not in self.lost:
                del self.objects["StatefulSet", group]
                self.ready.discard(group)
                self.started.discard(group)

    def lose_nodes(self, groups):
        """Let the nodes of groups fall silent; their pods neither answer nor end."""
        self.lost |= set(groups)
        self.ready -= self.lost

    def routers_read(self, routers=None):
        """Let routers see the present routing."""
        config = self.objects.get(("ConfigMap", f"{self.name}-routing"))
        for router in self.routers if routers is None else routers:
            router.routing = read_routing(config)

    def finish_requests(self):
        for router in self.routers:
            router.in_flight.clear()

    def send_requests(self, count=1):
        """Let every router send requests to the groups it has admitted."""
        for router in self.routers:
            for route in router.routing.get("groups", []):
                if self._admits(router, route["id"]):
                    held = router.in_flight.get(route["id"], 0)
                    router.in_flight[route["id"]] = held + count

    def everybody_acts(self):
        self.start_pods()
        self.end_pods()
        self.routers_read()
        self.finish_requests()

    def settle(self, rounds=100):
        """Let everybody act in turn until the operator has nothing to do."""
        for _ in range(rounds):
            self.everybody_acts()
            plan = self.reconcile()
            if plan.course.stage is not None and plan.course.stage.ends_at is not None:
                self.now = max(self.now, plan.course.stage.ends_at)
            if not plan.operations:
                self.everybody_acts()
                if not self.plan().operations:
                    return
        raise AssertionError(f"no rest after {rounds} rounds: {self.plan().operations}")

    # What there is.

    @property
    def parsed(self):
        return parse(self.service)

    @property
    def name(self):
        return self.service["metadata"]["name"]

    @property
    def replicas(self):
        return self.parsed.replicas if self.desired is None else self.desired

    @property
    def groups(self):
        return {name: obj for (kind, name), obj in self.objects.items() if kind == "StatefulSet"}

    @property
    def draining(self):
        return {
            name
            for name, obj in self.groups.items()
            if names.ANNOTATION_DRAINING_SINCE in obj["metadata"].get("annotations", {})
        }

    @property
    def routable(self):
        """Groups that take new requests: not draining, and admitted by every router."""
        return {
            name
            for name in self.groups.keys() - self.draining
            if all(self._admits(router, name) for router in self.routers if router.is_ready)
        }

    def revision_of(self, group):
        return self.objects["StatefulSet", group]["metadata"]["labels"][names.LABEL_REVISION]

    def change(self, **spec):
        """Change fields of the spec, as `kubectl apply` does."""
        self.service["spec"].update(spec)
        self.service["metadata"]["generation"] += 1

    def _admits(self, router, group):
        routes = router.routing.get("groups", [])
        is_active = any(route["id"] == group and route["state"] == "Active" for route in routes)
        return is_active and group in self.ready

    def _router_facts(self):
        return [
            Router(
                pod=router.name,
                is_ready=router.is_ready,
                may_carry=True,
                ready_since="2026-01-01T00:00:00Z",
                report=self._report(router),
            )
            for router in self.routers
        ]

    def _report(self, router):
        groups = {
            route["id"]: GroupReport(
                admitted=self._admits(router, route["id"]),
                in_flight=router.in_flight.get(route["id"], 0),
                waiting=0,
                running=0,
            )
            for route in router.routing.get("groups", [])
        }
        generation = router.routing.get("generation", 0)
        service = ServiceReport(generation=generation, held=0, groups=groups)
        return RouterReport(router=router.name, draining=False, services={self.name: service})

    def _pods(self):
        return [
            build_pod(
                group,
                is_ready=group in self.ready,
                has_started=group in self.started,
                is_ending="deletionTimestamp" in obj["metadata"],
                is_broken=group in self.broken,
                is_lost=group in self.lost,
                restarts=self.restarts if group in self.broken else 0,
            )
            for group, obj in self.groups.items()
        ]

    def _write(self, manifest, uid):
        obj = copy.deepcopy(manifest)
        present = self.objects.get((obj["kind"], obj["metadata"]["name"]))
        version = next(self._versions)
        created_at = (present or {"metadata": {}})["metadata"].get("creationTimestamp")
        obj["metadata"] |= {
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": created_at or timestamps.to_text(self.now),
        }
        if present:
            kept = present["metadata"].get("annotations", {})
            annotations = kept | obj["metadata"].get("annotations", {})
            obj["metadata"]["annotations"] = annotations
        self.objects[obj["kind"], obj["metadata"]["name"]] = obj

    def _exact(self, reference):
        obj = self.objects.get((reference.kind, reference.name))
        expected = (reference.uid, reference.resource_version)
        found = obj and (obj["metadata"]["uid"], obj["metadata"]["resourceVersion"])
        if found != expected:
            raise ApiConflict(reference)
        return obj


def build_pod(
    group,
    is_ready=True,
    has_started=None,
    is_ending=False,
    is_broken=False,
    is_lost=False,
    restarts=0,
    **status,
):
    """A raw engine pod of a group."""
    container = {
        "name": "engine",
        "started": is_ready if has_started is None else has_started,
        "restartCount": restarts,
        "state": {"running": {}},
    }
    if is_broken:
        container["started"] = False
        container["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
        container["lastState"] = {"terminated": {"exitCode": 1}}
    metadata = {
        "name": f"{group}-0",
        "namespace": NAMESPACE,
        "uid": f"pod-of-{group}",
        "resourceVersion": "1",
        "labels": {names.LABEL_SERVICE: group.rsplit("-", 2)[0]},
    }
    if is_ending or is_lost:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if is_ready else "False"}]
    if is_lost:
        conditions.append({"type": "DisruptionTarget", "reason": "DeletionByTaintManager"})
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "node-a"},
        "status": {"conditions": conditions, "containerStatuses": [container], **status},
    }


@pytest.fixture
def raw_pod():
    return build_pod


@pytest.fixture
def make_world():
    def make(routers=2, **spec):
        return World(build_service(**spec), routers)

    return make


class ApiServer:
    """Objects by path, with identities, versions, preconditions and owners of fields."""

    def __init__(self):
        self.objects = {}
        self.calls = []
        self.failures = []
        self.refused = ""
        self.knows_monitoring = False
        self.initializing = 0
        self.forbidden = ""
        self._numbers = itertools.count(1)

    async def handle(self, request):
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
            return web.json_response(self.objects[path])
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


def identity(obj):
    return obj["metadata"].get("uid"), obj["metadata"].get("resourceVersion")


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


@pytest.fixture
async def server():
    api = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()


@pytest.fixture
async def cluster(server):
    connection = Cluster(client.ApiClient(client.Configuration(host=server.url)))
    yield connection
    await connection.close()


@pytest.fixture
async def lease(cluster):
    held = Lease(cluster, "system", "operator-0")
    task = asyncio.create_task(held.keep())
    await held.wait_until_held()
    yield held
    task.cancel()
