"""What is: the objects and reports about one InferenceService, reduced to plain data.

Everything is read from the store and from the routers' reports; nothing is asked of a cluster
here, and nothing is decided.

A group is *routable* when its pod is Ready and every Ready router pod that speaks has admitted
it. When a Ready router pod is silent, or has not seen the present routing, the routers are not
*settled*: what is known still shows in the status, but nothing that may serve is drained by it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from openinference_operator import names, timestamps
from openinference_operator.manifests.routing import read_routing
from openinference_operator.pods import Pod, read_pod
from openinference_operator.rollout import GroupState, Phase
from openinference_operator.scaling import Demand, Lost
from openinference_operator.signals.router_state import (
    Endpoint,
    GroupReport,
    RouterReport,
    ServiceReport,
)
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object, Store

Live: TypeAlias = Mapping[tuple[str, str], Object]

CHILD_KINDS = (
    "StatefulSet",
    "ControllerRevision",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
)
METRICS_GRACE_SECONDS = 30.0  # a pod Ready for less may not have been scraped yet


@dataclass(frozen=True, slots=True)
class Router:
    """One router pod; `report` is None while it is silent.

    `may_carry`: it has started once, so that requests may run through it, also while it ends.
    """

    pod: str
    is_ready: bool
    may_carry: bool
    ready_since: str
    report: RouterReport | None


@dataclass(frozen=True, slots=True)
class Group:
    """One group: its StatefulSet, its pod, and what the routers say about it.

    `in_flight`: requests of all routers inside it, None while that is unknown.
    `is_cut_off`: every router has seen a routing by which the group gets no new request.
    `recreated_at`: when its pod was made anew by the operator, oldest first.
    `waiting`, `running`: what the engine reported to the routers last.
    """

    name: str
    revision: str
    uid: str
    resource_version: str
    created_at: float
    recreated_at: tuple[float, ...]
    pod: Pod | None
    draining_since: float | None
    is_being_deleted: bool
    is_routable: bool
    is_cut_off: bool
    in_flight: int | None
    waiting: int
    running: int

    @property
    def is_ready(self) -> bool:
        """Whether its pod is Ready."""
        return self.pod is not None and self.pod.is_ready

    @property
    def is_lost(self) -> bool:
        """Whether its pod is on a node that does not answer."""
        return self.pod is not None and self.pod.is_lost

    @property
    def is_going(self) -> bool:
        """Whether it drains or is being deleted."""
        return self.is_being_deleted or self.draining_since is not None

    @property
    def load(self) -> int:
        """Requests inside the group, for choosing which one goes."""
        return max(self.in_flight or 0, self.waiting + self.running)


@dataclass(frozen=True, slots=True)
class Revision:
    """One ControllerRevision.

    `succeeded_at`: when a rollout to it was last completed, or 0. `failure`: why the rollout to it
    failed, while it is still wanted.
    """

    name: str
    number: int
    succeeded_at: float
    failure: str
    template: Mapping[str, Any]
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Observed:
    """All facts about one InferenceService that a decision may use.

    `name_taken_by`: an older InferenceService of the namespace with the same model name.
    """

    groups: tuple[Group, ...]
    revisions: Mapping[str, Revision]
    routers: tuple[Router, ...]
    routers_settled: bool
    live: Live
    status: Mapping[str, Any]
    name_taken_by: str = ""

    @property
    def ready_routers(self) -> tuple[Router, ...]:
        """Router pods that clients reach."""
        return tuple(router for router in self.routers if router.is_ready)

    @property
    def silent_routers(self) -> tuple[str, ...]:
        """Ready router pods that do not tell their state."""
        return tuple(router.pod for router in self.ready_routers if router.report is None)

    @property
    def current_revision(self) -> str:
        """The revision whose rollout was completed last; empty before the first."""
        done = [revision for revision in self.revisions.values() if revision.succeeded_at]
        return max(done, key=lambda revision: revision.succeeded_at).name if done else ""


def observe(store: Store, service: InferenceService, routers: Sequence[Router]) -> Observed:
    """Gather the facts about a service."""
    live = {
        (kind, obj["metadata"]["name"]): obj
        for kind in CHILD_KINDS
        for obj in store.select(kind, service.namespace, service.name)
    }
    routing = read_routing(live.get(("ConfigMap", names.routing_configmap(service.name))))
    view = _RouterView(service.name, tuple(routers), routing)
    pods = {
        obj["metadata"]["name"]: read_pod(obj)
        for obj in store.select("Pod", service.namespace, service.name)
    }
    own = [obj for obj in live.values() if is_owned_by(obj, service.uid)]
    raw = store.service(service.namespace, service.name) or {}
    return Observed(
        groups=tuple(
            _group(obj, pods.get(names.leader_pod(obj["metadata"]["name"])), view)
            for obj in own
            if obj["kind"] == "StatefulSet"
        ),
        revisions={
            revision.name: revision
            for revision in (_revision(obj) for obj in own if obj["kind"] == "ControllerRevision")
        },
        routers=tuple(routers),
        routers_settled=view.is_settled(),
        live=live,
        status=raw.get("status") or {},
        name_taken_by=_older_namesake(store, service),
    )


def _older_namesake(store: Store, service: InferenceService) -> str:
    mine = (service.created_at, service.name)
    for raw in store.services(service.namespace):
        metadata = raw["metadata"]
        theirs = (metadata.get("creationTimestamp", ""), metadata["name"])
        served = (raw["spec"].get("model") or {}).get("name") or metadata["name"]
        if served == service.model.name and theirs < mine:
            return str(metadata["name"])
    return ""


def observe_routers(
    store: Store, namespace: str, report_of: Callable[[Endpoint], RouterReport | None]
) -> list[Router]:
    """The router pods of a namespace, also those that are ending but still carry streams."""
    routers = []
    for raw in store.select("Pod", namespace, ""):
        pod, endpoint = read_pod(raw), router_endpoint(raw)
        routers.append(
            Router(
                pod=pod.name,
                is_ready=pod.is_ready and not pod.is_terminating,
                may_carry=endpoint is not None,
                ready_since=pod.ready_since,
                report=report_of(endpoint) if endpoint else None,
            )
        )
    return routers


def router_endpoint(raw: Object) -> Endpoint | None:
    """Where a router pod serves its state; None before it has started and after it has ended."""
    pod, status, metadata = read_pod(raw), raw.get("status", {}), raw["metadata"]
    is_serving = status.get("phase") == "Running" and (pod.has_started or pod.is_terminating)
    if not is_serving or "podIP" not in status:
        return None
    return Endpoint(metadata["namespace"], metadata["name"], status["podIP"])


def is_owned_by(obj: Object, uid: str) -> bool:
    """Whether an InferenceService is an owner of an object."""
    owners = obj["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == uid for owner in owners)


def phase_of(group: Group, drain_timeout_seconds: int, now: float) -> Phase:
    """Where a group is in its life; the first thing that holds decides."""
    pod = group.pod
    if group.is_lost:
        return Phase.LOST
    if group.is_being_deleted:
        return Phase.DELETED
    if group.draining_since is not None:
        is_over = now >= group.draining_since + drain_timeout_seconds
        is_idle = group.is_cut_off and group.in_flight == 0
        return Phase.DRAINED if is_idle or is_over else Phase.DRAINING
    if group.is_routable:
        return Phase.ROUTABLE
    if pod is not None and pod.trouble is not None:
        return Phase.BROKEN
    if pod is None or not pod.has_started or pod.is_terminating:
        return Phase.STARTING
    return Phase.UNROUTABLE


def group_state(group: Group, drain_timeout_seconds: int, now: float) -> GroupState:
    """A group as the rollout sees it."""
    return GroupState(
        name=group.name,
        revision=group.revision,
        phase=phase_of(group, drain_timeout_seconds, now),
        load=group.load,
        is_being_deleted=group.is_being_deleted,
    )


def demand_from_routers(observed: Observed, service: str) -> Demand | Lost:
    """Demand as the routers themselves report it, when Prometheus is lost."""
    if not observed.ready_routers:
        return Lost("no router pod is Ready")
    if observed.silent_routers:
        return Lost(f"router pods do not tell their state: {', '.join(observed.silent_routers)}")
    return Demand(
        waiting=held_requests(observed, service) + sum(group.waiting for group in observed.groups),
        running=sum(group.running for group in observed.groups),
        source="Routers",
    )


def held_requests(observed: Observed, service: str) -> int:
    """Requests that wait in the routers that speak."""
    reports = [router.report for router in observed.ready_routers if router.report]
    return sum(report.services[service].held for report in reports if service in report.services)


def long_ready(since: str, now: float) -> bool:
    """Whether a pod has been Ready long enough to have been scraped."""
    return bool(since) and now - timestamps.from_text(since) >= METRICS_GRACE_SECONDS


@dataclass(frozen=True, slots=True)
class _RouterView:
    """One InferenceService through the eyes of its routers."""

    service: str
    routers: tuple[Router, ...]
    routing: Mapping[str, Any]

    def is_settled(self) -> bool:
        """Whether a router pod is Ready, and all those that are have seen the present routing."""
        ready = [router for router in self.routers if router.is_ready]
        return bool(ready) and all(self._has_seen_routing(router) for router in ready)

    def is_routable(self, group: str) -> bool:
        """Whether every Ready router that speaks, and at least one, has admitted a group."""
        speaking = [router for router in self.routers if router.is_ready and router.report]
        reports = [self._group_report(router, group) for router in speaking]
        return bool(reports) and all(report is not None and report.admitted for report in reports)

    def is_cut_off(self, group: str) -> bool:
        """Whether every router that may carry requests knows that a group gets no new one."""
        groups = self.routing.get("groups", [])
        is_active = any(route["id"] == group and route["state"] == "Active" for route in groups)
        carrying = [router for router in self.routers if router.may_carry]
        return not is_active and all(self._has_seen_routing(router) for router in carrying)

    def in_flight(self, group: str) -> int | None:
        """Requests of all routers inside a group; None while one that may have some is silent."""
        if any(router.may_carry and router.report is None for router in self.routers):
            return None
        return sum(report.in_flight for report in self.group_reports(group))

    def group_reports(self, group: str) -> list[GroupReport]:
        """What each router says about a group."""
        reports = [self._group_report(router, group) for router in self.routers]
        return [report for report in reports if report is not None]

    def _group_report(self, router: Router, group: str) -> GroupReport | None:
        report = self._service_report(router)
        return report.groups.get(group) if report else None

    def _service_report(self, router: Router) -> ServiceReport | None:
        return router.report.services.get(self.service) if router.report else None

    def _has_seen_routing(self, router: Router) -> bool:
        report = self._service_report(router)
        return report is not None and report.generation == self.routing.get("generation")


def _group(obj: Object, pod: Pod | None, view: _RouterView) -> Group:
    metadata = obj["metadata"]
    name = metadata["name"]
    annotations = metadata.get("annotations") or {}
    draining_since = annotations.get(names.ANNOTATION_DRAINING_SINCE)
    recreated_at = annotations.get(names.ANNOTATION_RECREATED_AT)
    can_answer = pod is not None and pod.is_ready and not pod.is_terminating
    may_hold = pod is not None and (pod.has_started or pod.is_terminating)
    reports = view.group_reports(name)
    return Group(
        name=name,
        revision=metadata["labels"].get(names.LABEL_REVISION, ""),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        created_at=timestamps.from_text(metadata["creationTimestamp"]),
        recreated_at=tuple(map(timestamps.from_text, recreated_at.split(",")))
        if recreated_at
        else (),
        pod=pod,
        draining_since=timestamps.from_text(draining_since) if draining_since else None,
        is_being_deleted="deletionTimestamp" in metadata,
        is_routable=can_answer and view.is_routable(name),
        is_cut_off=not may_hold or view.is_cut_off(name),
        in_flight=view.in_flight(name) if may_hold else 0,
        waiting=max((report.waiting for report in reports), default=0),
        running=max((report.running for report in reports), default=0),
    )


def _revision(obj: Object) -> Revision:
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    succeeded_at = annotations.get(names.ANNOTATION_SUCCEEDED_AT)
    return Revision(
        name=metadata["labels"].get(names.LABEL_REVISION, ""),
        number=int(obj.get("revision", 0)),
        succeeded_at=timestamps.from_text(succeeded_at) if succeeded_at else 0.0,
        failure=annotations.get(names.ANNOTATION_FAILURE, ""),
        template=(obj.get("data") or {}).get("template") or {},
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
    )
