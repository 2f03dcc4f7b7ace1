"""A model of a cluster on plain dicts.

`World` holds `objects` as the API server does, and plays the parts around the operator: it makes
pods for StatefulSets, lets them start and end, and has routers that read the routing, admit groups
and carry requests. Nothing of the operator is replaced.
"""

import copy
from dataclasses import dataclass, field

from openinference_operator import names, timestamps
from openinference_operator.canary import Verdict
from openinference_operator.course import Evidence
from openinference_operator.manifests.routing import read_routing
from openinference_operator.observe import observe
from openinference_operator.operations import Delete
from openinference_operator.plan import plan_service
from openinference_operator.routers import Router
from openinference_operator.settings import EngineSettings
from openinference_operator.signals.router_state import GroupReport, RouterReport, ServiceReport
from openinference_operator.spec import parse
from openinference_operator.store import Store

from tests.operator.objects import Objects
from tests.operator.raw import build_pod

IMAGE = "engine:1"


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
        self.objects = Objects()
        self.ready = set()
        self.started = set()
        self.broken = set()
        self.restarts = 0
        self.lost = set()
        self.unplaced = set()
        self.unready = set()
        self.routers = [RouterPod(f"router-{number}") for number in range(routers)]
        self.now = timestamps.from_text("2026-01-01T00:00:00Z")
        self.desired = None
        self.siblings = []
        self.recreated = []
        self.image = IMAGE
        self.verdict = Verdict()
        self.golden_failure = ""
        self.answers_golden = True

    # What the operator does.

    def observe(self):
        store = Store()
        for raw in [self.service, *self.siblings]:
            store.put(raw)
        for obj in [*self.objects.values(), *self.pods()]:
            store.put(copy.deepcopy(obj))
        return observe(store, self.parsed, self._router_facts())

    def plan(self, *, is_isolated=True):
        defaults = EngineSettings(self.image)
        seen = (self.parsed, self.observe(), self.replicas, defaults, self.now, self.evidence())
        return plan_service(*seen, is_isolated=is_isolated)

    def evidence(self):
        """Every group that is ready has answered its golden prompts, if they do answer."""
        answered = self.ready if self.answers_golden else ()
        return Evidence(dict.fromkeys(answered, self.golden_failure), self.verdict)

    def perform(self, operation):
        """Apply one operation as the API server would. Raises ApiConflict."""
        match operation:
            case Delete(reference) if reference.kind == "Pod":
                self.recreated.append(reference.name)
                self.broken.discard(reference.name.rpartition("-")[0])
            case _:
                self.objects.perform(operation, timestamps.to_text(self.now))

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

    def pods(self):
        """Every pod of a group does as the group does, but for those without a node."""
        return [
            build_pod(
                group,
                index=index,
                is_unplaced=f"{group}-{index}" in self.unplaced,
                is_ready=group in self.ready and f"{group}-{index}" not in self.unready,
                has_started=group in self.started,
                is_ending="deletionTimestamp" in obj["metadata"],
                is_broken=group in self.broken,
                is_lost=group in self.lost,
                restarts=self.restarts if group in self.broken else 0,
            )
            for group, obj in self.groups.items()
            for index in range(obj["spec"]["replicas"])
        ]
