"""The routers of a namespace as one InferenceService sees them.

A Ready router pod that is silent, or has not seen the present routing, makes the routers
*unsettled*: what is known still shows in the status, but nothing that may serve is drained by it.
A silent router is unknown, never idle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openinference_operator.pod_status import condition
from openinference_operator.pods import read_pod
from openinference_operator.signals.router_state import (
    Endpoint,
    GroupReport,
    RouterReport,
    ServiceReport,
)
from openinference_operator.store import Object, Store


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
class RouterView:
    """All router pods, the service that is looked at, and its routing as it is now.

    `trouble`: what keeps a router pod from being Ready or from being made, in words; or empty.
    """

    service: str
    pods: tuple[Router, ...]
    routing: Mapping[str, Any]
    trouble: str = ""

    @property
    def ready(self) -> tuple[Router, ...]:
        """Router pods that clients reach."""
        return tuple(router for router in self.pods if router.is_ready)

    @property
    def silent(self) -> tuple[str, ...]:
        """Ready router pods that do not tell their state."""
        return tuple(router.pod for router in self.ready if router.report is None)

    @property
    def is_settled(self) -> bool:
        """Whether a router pod is Ready, and all those that are have seen the present routing."""
        return bool(self.ready) and all(map(self._has_seen_routing, self.ready))

    @property
    def held(self) -> int:
        """Requests that wait in the Ready routers that speak."""
        reports = map(self._service_report, self.ready)
        return sum(report.held for report in reports if report is not None)

    def has_admitted(self, group: str) -> bool:
        """Whether every Ready router that speaks, and at least one, sends requests to a group."""
        speaking = [router for router in self.ready if router.report is not None]
        reports = [self._group_report(router, group) for router in speaking]
        return bool(reports) and all(report is not None and report.admitted for report in reports)

    def not_admitting(self, group: str) -> tuple[str, ...]:
        """Ready router pods that speak, and send no requests to a group though they should."""
        is_active = self._is_active(group)
        speaking = (router for router in self.ready if is_active and router.report is not None)
        reports = {router.pod: self._group_report(router, group) for router in speaking}
        return tuple(pod for pod, report in reports.items() if not (report and report.admitted))

    def has_cut_off(self, group: str) -> bool:
        """Whether every router that may carry requests knows that a group gets no new one."""
        carrying = (router for router in self.pods if router.may_carry)
        return not self._is_active(group) and all(map(self._has_seen_routing, carrying))

    def in_flight(self, group: str) -> int | None:
        """Requests of all routers inside a group; None while one that may have some is silent."""
        if any(router.may_carry and router.report is None for router in self.pods):
            return None
        return sum(report.in_flight for report in self.reports(group))

    def reports(self, group: str) -> list[GroupReport]:
        """What each router says about a group."""
        reports = (self._group_report(router, group) for router in self.pods)
        return [report for report in reports if report is not None]

    def _is_active(self, group: str) -> bool:
        routes = self.routing.get("groups", [])
        return any(route["id"] == group and route["state"] == "Active" for route in routes)

    def _group_report(self, router: Router, group: str) -> GroupReport | None:
        report = self._service_report(router)
        return report.groups.get(group) if report else None

    def _service_report(self, router: Router) -> ServiceReport | None:
        return router.report.services.get(self.service) if router.report else None

    def _has_seen_routing(self, router: Router) -> bool:
        report = self._service_report(router)
        return report is not None and report.generation == self.routing.get("generation")


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
                may_carry=endpoint is not None and not pod.is_lost,
                ready_since=pod.ready_since,
                report=report_of(endpoint) if endpoint else None,
            )
        )
    return routers


def find_router_trouble(store: Store, namespace: str) -> str:
    """What is wrong with a router pod, or why there is none; empty if nothing is known to be."""
    pods = map(read_pod, store.select("Pod", namespace, ""))
    wrong = [pod.trouble.message for pod in pods if pod.trouble and not pod.is_terminating]
    deployments = store.select("Deployment", namespace, "")
    failures = [condition(each, "ReplicaFailure") for each in deployments]
    unmade = [each.get("message", "") for each in failures if each.get("status") == "True"]
    return next(iter([*wrong, *unmade]), "")


def router_endpoint(raw: Object) -> Endpoint | None:
    """Where a router pod serves its state; None before it has started and after it has ended."""
    pod, status, metadata = read_pod(raw), raw.get("status", {}), raw["metadata"]
    is_serving = status.get("phase") == "Running" and (pod.has_started or pod.is_terminating)
    if not is_serving or "podIP" not in status:
        return None
    return Endpoint(metadata["namespace"], metadata["name"], status["podIP"])
