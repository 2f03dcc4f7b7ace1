"""From what is wanted and what is, to what to do now: pure.

    (InferenceService, Observed, desired replicas, default image, now) -> Plan

A plan is the smallest set of operations that is right for this moment; when it is empty, the
service is at rest. Operations are ordered so that the operator may die between any two of them:
a drain is written on the group before the routers hear of it, routers hear of a group before it
goes, and a revision is kept before a group is made from it. Nodes are given up first, because an
operation that is refused ends the plan and others wait for those nodes.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from openinference_operator import gang, moves, names
from openinference_operator.course import NO_EVIDENCE, Course, Evidence, set_course
from openinference_operator.drift import differs
from openinference_operator.history import forget_revisions, keep_revision, note_outcomes
from openinference_operator.manifests import engine, routing, services
from openinference_operator.manifests.common import Manifest, signed
from openinference_operator.manifests.monitoring import build_monitoring
from openinference_operator.manifests.network import (
    POLICIES,
    build_group_policy,
    build_network_policies,
)
from openinference_operator.manifests.router import build_router
from openinference_operator.observe import Live, Observed
from openinference_operator.operations import Apply, Delete, Operation, Reference
from openinference_operator.preparation import plan_preparation
from openinference_operator.recovery import budget_returns_at, crashes_in_vain
from openinference_operator.rollback import deadlines
from openinference_operator.routes import build_routes
from openinference_operator.settings import EngineSettings, NetworkSettings, RouterSettings
from openinference_operator.spec import InferenceService

GANG_SECONDS = 5.0  # other services' groups, which a decision waits for, wake nobody here


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and why. `look_again_at`: when time alone changes it; None if it does not."""

    course: Course
    desired: int
    operations: tuple[Operation, ...]
    look_again_at: float | None


def plan_service(
    service: InferenceService,
    observed: Observed,
    desired: int,
    defaults: EngineSettings,
    now: float,
    evidence: Evidence = NO_EVIDENCE,
    *,
    is_isolated: bool = True,
) -> Plan:
    """Plan one InferenceService. `is_isolated`: network policies are wanted."""
    course = set_course(service, observed, desired, evidence, now)
    step, stable = course.step, observed.current_revision
    result = observed.preparation.result
    model_bytes = result.num_bytes if result else None
    layout = observed.layout(service).layout
    rendered = engine.build_pod_template(
        service, defaults.image, layout, model_bytes, defaults.otlp_endpoint
    )
    operations = (
        *moves.resize(service, observed, course, now),
        *plan_preparation(service, observed.jobs, observed.fetchers, defaults.image),
        *(
            ()
            if course.is_held
            else keep_revision(service, observed, course.revision, layout, rendered)
        ),
        *note_outcomes(service, observed, course, now),
        *_changed(_fixed_objects(service), observed.live),
        *moves.drain(service, observed, step, now),
        *_changed([_routing(service, observed, course)], observed.live),
        *moves.create(service, observed, stable, step.restore, layout, rendered),
        *moves.create(service, observed, course.target, step.create, layout, rendered),
        *_shut_off(service, observed, is_enabled=is_isolated),
        *moves.delete(service, observed, step),
        *moves.recreate(service, observed, course, now),
        *moves.note_progress(service, observed, course, evidence, now),
        *forget_revisions(service, observed, course.revision),
    )
    look_again_at = _look_again_at(service, observed, course, now)
    return Plan(course, desired, operations, look_again_at)


def plan_namespace(
    owners: Sequence[InferenceService],
    live: Live,
    router: RouterSettings,
    network: NetworkSettings,
) -> tuple[Operation, ...]:
    """Plan what all services of a namespace share, apart from the token Secret and monitoring."""
    policies = build_network_policies(owners, network)
    manifests = [*build_router(owners, router), *policies]
    return (*_changed(manifests, live), *_left_over(policies, live))


def plan_monitoring(
    owners: Sequence[InferenceService], live: Live, kinds: Collection[str]
) -> tuple[Operation, ...]:
    """Plan what Prometheus Operator is told, in those of its kinds that exist."""
    manifests = [each for each in build_monitoring(owners) if each["kind"] in kinds]
    return tuple(_changed(manifests, live))


def _look_again_at(
    service: InferenceService, observed: Observed, course: Course, now: float
) -> float | None:
    """When a drain or pause is over, a restart budget returns, or a group of a rollout is late."""
    times = [
        group.draining_since + service.rollout.drain_timeout_seconds
        for group in observed.groups
        if group.draining_since is not None and not group.is_being_deleted
    ]
    times += [
        budget_returns_at(group, service.restart_budget, now)
        for group in observed.groups
        if crashes_in_vain(group)
    ]
    times += [
        gang.retry_at(group.given_up_at or [group.created_at])
        for group in observed.groups
        if group.is_given_up and not group.is_going and group.revision in observed.revisions
    ]
    times += [at for group in observed.groups if (at := group.is_missed_at) and at > now]
    if observed.waiting:
        times.append(now + GANG_SECONDS)
    if not course.failure and observed.current_revision != course.revision:
        seconds = service.rollout.progress_deadline_seconds
        times += deadlines(observed.groups, course.revision, seconds, course.unproved)
    if course.stage and course.stage.ends_at and course.stage.ends_at > now:
        times.append(course.stage.ends_at)
    return min(times, default=None)


def _fixed_objects(service: InferenceService) -> list[Manifest]:
    """What an InferenceService has whatever its state."""
    return [
        services.build_groups_service(service),
        services.build_client_service(service),
        engine.build_engine_disruption_budget(service),
    ]


def _changed(manifests: Iterable[Manifest], live: Live) -> Iterator[Operation]:
    """Apply what is missing or differs from what is rendered."""
    for manifest in map(signed, manifests):
        present = live.get((manifest["kind"], manifest["metadata"]["name"]))
        if present is None or differs(present, manifest):
            yield Apply(manifest, exists=present is not None)


def _left_over(policies: Iterable[Manifest], live: Live) -> Iterator[Operation]:
    """Delete the network policies that were applied once and are rendered no more."""
    rendered = {policy["metadata"]["name"] for policy in policies}
    for name in POLICIES:
        if name not in rendered:
            yield from _delete_policy(live, name)


def _delete_policy(live: Live, name: str) -> Iterator[Operation]:
    """Delete a network policy, unless it is not there or going already."""
    present = live.get(("NetworkPolicy", name))
    if present is None or "deletionTimestamp" in present["metadata"]:
        return
    metadata = present["metadata"]
    place = (metadata["namespace"], metadata["name"], metadata["uid"])
    yield Delete(Reference("NetworkPolicy", *place, metadata["resourceVersion"]))


def _routing(service: InferenceService, observed: Observed, course: Course) -> Manifest:
    live = observed.live.get(("ConfigMap", names.routing_configmap(service.name)))
    return routing.build_routing_configmap(service, build_routes(observed.groups, course), live)


def _shut_off(
    service: InferenceService, observed: Observed, *, is_enabled: bool
) -> Iterator[Operation]:
    """Let the pods of each group reach one another; nobody else reaches their ranks."""
    groups = [
        each for each in observed.groups if len(each.members) > 1 and not each.is_being_deleted
    ]
    if is_enabled:
        policies = (build_group_policy(service, group.name, group.uid) for group in groups)
        yield from _changed(policies, observed.live)
        return
    for group in groups:
        yield from _delete_policy(observed.live, group.name)
