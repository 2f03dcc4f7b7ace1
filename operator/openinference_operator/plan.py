"""From what is wanted and what is, to what to do now: pure.

    (InferenceService, Observed, desired replicas, default image, now) -> Plan

A plan is the smallest set of operations that is right for this moment; when it is empty, the
service is at rest. Operations are ordered so that the operator may die between any two of them:
a drain is written on the group before the routers hear of it, routers hear of a group before it
goes, and a revision is kept before a group is made from it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from openinference_operator import names, recovery, timestamps
from openinference_operator.drift import differs
from openinference_operator.groups import Group, group_state
from openinference_operator.manifests import engine, routing, services
from openinference_operator.manifests.common import Manifest, signed
from openinference_operator.manifests.router import build_router
from openinference_operator.observe import Live, Observed, Revision
from openinference_operator.operations import Annotate, Apply, Create, Delete, Operation, Reference
from openinference_operator.recovery import budget_returns_at, crashes_in_vain, to_recreate
from openinference_operator.revision import revised_fields, revision_of
from openinference_operator.rollback import choose_target, deadlines, find_failure
from openinference_operator.rollout import GroupState, Phase, Step, bounds, next_step
from openinference_operator.settings import RouterSettings
from openinference_operator.spec import InferenceService

KEPT_REVISIONS = 10  # besides those in use; as many as a Deployment keeps


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and what the status says about it.

    `revision` is what the spec asks for, `target` what is rolled out: another one only while
    `failure` says why the revision cannot be; `current` is the last whose rollout was completed,
    with this plan included. `look_again_at`: when time alone changes the plan;
    None when nothing waits for a time.
    """

    revision: str
    target: str
    current: str
    failure: str
    desired: int
    states: tuple[GroupState, ...]
    step: Step
    operations: tuple[Operation, ...]
    look_again_at: float | None

    @property
    def is_rolled_back(self) -> bool:
        """Whether the wanted revision was given up for the last good one."""
        return self.target != self.revision


def plan_service(
    service: InferenceService, observed: Observed, desired: int, default_image: str, now: float
) -> Plan:
    """Plan one InferenceService."""
    revision = revision_of(service)
    failure = _failure(service, observed, revision, now)
    target = choose_target(revision, observed.current_revision, failure)
    drain_timeout = service.rollout.drain_timeout_seconds
    states = tuple(group_state(group, drain_timeout, now) for group in observed.groups)
    step = next_step(
        states,
        target,
        bounds(service.rollout, desired),
        routers_settled=observed.routers.is_settled,
    )
    current = target if _is_complete(states, target, desired) else observed.current_revision
    rendered = engine.build_pod_template(service, default_image)
    operations = (
        *_keep_revision(service, observed, revision, rendered),
        *_mark_failures(service, observed, revision, failure, target),
        *_changed(_fixed_objects(service), observed.live),
        *_drains(service, observed, step, now),
        *_changed([_routing(service, observed, step)], observed.live),
        *_creations(service, observed, target, step, rendered),
        *_deletions(service, observed, step),
        *_recreations(service, observed, target, step, now),
        *_mark_ready(service, observed, step, now),
        *_mark_success(service, observed, current, now),
        *_forget_revisions(service, observed, revision),
    )
    return Plan(
        revision=revision,
        target=target,
        current=current,
        failure=failure,
        desired=desired,
        states=states,
        step=step,
        operations=operations,
        look_again_at=_look_again_at(service, observed, revision, failure, now),
    )


def plan_router(
    owners: Sequence[InferenceService], live: Live, settings: RouterSettings
) -> tuple[Operation, ...]:
    """Plan the router of a namespace, apart from the token Secret."""
    return tuple(_changed(build_router(owners, settings), live))


def _is_complete(states: Sequence[GroupState], target: str, desired: int) -> bool:
    """Whether all groups but lost ones are of one revision, as many as wanted, and routable."""
    there = [group for group in states if group.phase is not Phase.LOST]
    done = [group for group in there if group.phase is Phase.ROUTABLE and group.revision == target]
    return len(there) == len(done) == desired > 0


def _failure(service: InferenceService, observed: Observed, revision: str, now: float) -> str:
    """Why the wanted revision cannot be rolled out; empty while it may be, or once it was."""
    kept = observed.revisions.get(revision)
    if kept is not None and kept.failure:
        return kept.failure
    if observed.current_revision == revision:
        return ""
    deadline_seconds = service.rollout.progress_deadline_seconds
    return find_failure(observed.groups, revision, deadline_seconds, now)


def _look_again_at(
    service: InferenceService, observed: Observed, revision: str, failure: str, now: float
) -> float | None:
    """When the next drain is over, a restart budget returns, or a group of a rollout is late."""
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
    if not failure and observed.current_revision != revision:
        deadline_seconds = service.rollout.progress_deadline_seconds
        times += deadlines(observed.groups, revision, deadline_seconds)
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


def _keep_revision(
    service: InferenceService, observed: Observed, revision: str, rendered: Manifest
) -> Iterator[Operation]:
    if revision in observed.revisions:
        return
    number = 1 + max((kept.number for kept in observed.revisions.values()), default=0)
    fields = revised_fields(service)
    # Applied, not created: the data of a ControllerRevision is immutable byte for byte, and only
    # apply stores it in the form that a later annotation leaves as it is.
    manifest = engine.build_controller_revision(service, revision, number, fields, rendered)
    yield Apply(manifest, exists=False)


def _drains(
    service: InferenceService, observed: Observed, step: Step, now: float
) -> Iterator[Operation]:
    since = {names.ANNOTATION_DRAINING_SINCE: timestamps.to_text(now)}
    for group in _named(observed.groups, step.drain):
        yield Annotate(_reference(service, group), since)


def _routing(service: InferenceService, observed: Observed, step: Step) -> Manifest:
    routes = [
        _route(group, group.name in step.drain)
        for group in observed.groups
        if group.pod is not None and not group.pod.is_lost
    ]
    live = observed.live.get(("ConfigMap", names.routing_configmap(service.name)))
    return routing.build_routing_configmap(service, routes, live)


def _route(group: Group, drains_now: bool) -> routing.Route:
    is_going = (
        drains_now
        or group.draining_since is not None
        or group.is_being_deleted
        or (group.pod is not None and group.pod.is_terminating)
    )
    return routing.Route(group.name, group.revision, "Draining" if is_going else "Active")


def _creations(
    service: InferenceService, observed: Observed, target: str, step: Step, rendered: Manifest
) -> Iterator[Operation]:
    """New groups, from the template that was kept when the revision was new."""
    kept = observed.revisions.get(target)
    template = dict(kept.template) if kept else rendered
    taken = {group.name for group in observed.groups}
    candidates = (names.group(service.name, target, number) for number in count())
    free = (name for name in candidates if name not in taken)
    for _, name in zip(range(step.create), free, strict=False):
        yield Create(engine.build_statefulset(service, target, name, template))


def _deletions(service: InferenceService, observed: Observed, step: Step) -> Iterator[Operation]:
    for group in _named(observed.groups, step.delete):
        yield Delete(_reference(service, group))


def _recreations(
    service: InferenceService, observed: Observed, target: str, step: Step, now: float
) -> Iterator[Operation]:
    """Make pods anew that crash in vain, but not while their revision may still fail for it."""
    if observed.current_revision != target:
        return
    staying = (
        group
        for group in observed.groups
        if group.revision == target and group.name not in step.drain
    )
    budget = service.restart_budget
    for group in to_recreate(staying, budget, now):
        times = {names.ANNOTATION_RECREATED_AT: recovery.note(group, budget, now)}
        yield Annotate(_reference(service, group), times)
        yield Delete(_pod_reference(service, group))


def _mark_ready(
    service: InferenceService, observed: Observed, step: Step, now: float
) -> Iterator[Operation]:
    """Note on a group once that it was ready: what served is not treated like what never did."""
    for group in observed.groups:
        stays = not group.is_going and group.name not in step.drain
        if group.is_ready and group.ready_at is None and stays:
            note = {names.ANNOTATION_READY_AT: timestamps.to_text(now)}
            yield Annotate(_reference(service, group), note)


def _mark_failures(
    service: InferenceService, observed: Observed, revision: str, failure: str, target: str
) -> Iterator[Operation]:
    """Note on the wanted revision why it was given up, and forget it of those not wanted."""
    for kept in observed.revisions.values():
        noted: str | None = failure if kept.name == revision and target != revision else None
        if (kept.failure or None) != noted:
            note = {names.ANNOTATION_FAILURE: noted}
            yield Annotate(_revision_reference(service, kept), note)


def _mark_success(
    service: InferenceService, observed: Observed, current: str, now: float
) -> Iterator[Operation]:
    """Note on a revision that its rollout was completed; the newest note is the current one."""
    kept = observed.revisions.get(current)
    if kept is not None and observed.current_revision != current:
        newest = max(other.succeeded_at for other in observed.revisions.values())
        note = {names.ANNOTATION_SUCCEEDED_AT: timestamps.to_text(max(now, newest + 1))}
        yield Annotate(_revision_reference(service, kept), note)


def _forget_revisions(
    service: InferenceService, observed: Observed, revision: str
) -> Iterator[Operation]:
    in_use = {revision, observed.current_revision, *(group.revision for group in observed.groups)}
    unused = [kept for kept in observed.revisions.values() if kept.name not in in_use]
    newest_first = sorted(unused, key=lambda kept: kept.number, reverse=True)
    for kept in newest_first[KEPT_REVISIONS:]:
        yield Delete(_revision_reference(service, kept))


def _named(groups: Iterable[Group], wanted: tuple[str, ...]) -> Iterator[Group]:
    return (group for group in groups if group.name in wanted)


def _reference(service: InferenceService, group: Group) -> Reference:
    return Reference(
        "StatefulSet", service.namespace, group.name, group.uid, group.resource_version
    )


def _pod_reference(service: InferenceService, group: Group) -> Reference:
    """A pod in any version: one that crashes changes all the time."""
    assert group.pod is not None, "only a pod that crashes is made anew"  # noqa: S101
    return Reference("Pod", service.namespace, group.pod.name, group.pod.uid, "")


def _revision_reference(service: InferenceService, kept: Revision) -> Reference:
    name = names.controller_revision(service.name, kept.name)
    return Reference("ControllerRevision", service.namespace, name, kept.uid, kept.resource_version)
