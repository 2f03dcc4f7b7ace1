"""What is done to the groups of a service: made, drained, deleted, begun anew, noted upon. Pure.

Each function yields the operations of one kind for what was decided; `plan` says in which order.
"""

from collections.abc import Iterable, Iterator
from itertools import count

from openinference_operator import gang, names, recovery, timestamps
from openinference_operator.course import Course, Evidence
from openinference_operator.groups import Group
from openinference_operator.layout import Layout
from openinference_operator.manifests import engine
from openinference_operator.manifests.common import Manifest
from openinference_operator.observe import Observed
from openinference_operator.operations import Annotate, Create, Delete, Operation, Reference, Resize
from openinference_operator.pods import Pod
from openinference_operator.recovery import to_recreate
from openinference_operator.rollout import Step
from openinference_operator.spec import InferenceService


def drain(
    service: InferenceService, observed: Observed, step: Step, now: float
) -> Iterator[Operation]:
    """Note on groups that they drain, which takes them out of the routing."""
    since = {names.ANNOTATION_DRAINING_SINCE: timestamps.to_text(now)}
    for group in _named(observed.groups, step.drain):
        yield Annotate(_reference(service, group), since)


def create(
    service: InferenceService,
    observed: Observed,
    revision: str,
    number: int,
    layout: Layout,
    rendered: Manifest,
) -> Iterator[Operation]:
    """So many groups, from the template that was kept when their revision was new."""
    kept = observed.revisions.get(revision)
    template, layout = (dict(kept.template), kept.layout) if kept else (rendered, layout)
    taken = {group.name for group in observed.groups}
    candidates = (names.group(service.name, revision, index) for index in count())
    free = (name for name in candidates if name not in taken)
    for _, name in zip(range(number), free, strict=False):
        yield Create(engine.build_statefulset(service, revision, name, template, layout.pods))


def delete(service: InferenceService, observed: Observed, step: Step) -> Iterator[Operation]:
    """Delete groups that have drained or are lost."""
    for group in _named(observed.groups, step.delete):
        yield Delete(_reference(service, group))


def recreate(
    service: InferenceService, observed: Observed, course: Course, now: float
) -> Iterator[Operation]:
    """Make groups anew that crash in vain, but not while their revision may still fail for it."""
    if observed.current_revision != course.target:
        return
    staying = (
        group
        for group in observed.groups
        if group.revision == course.target and group.name not in course.step.drain
    )
    budget = service.restart_budget
    for group in to_recreate(staying, budget, now):
        times = {names.ANNOTATION_RECREATED_AT: recovery.note(group, budget, now)}
        yield Annotate(_reference(service, group), times)
        for pod in group.pods:
            yield Delete(_pod_reference(service, pod))


def resize(
    service: InferenceService, observed: Observed, course: Course, now: float
) -> Iterator[Operation]:
    """Let groups give up nodes of which they do not get enough, and try again later.

    A number of pods that somebody else set is set right at once, where a revision tells the right
    one.
    """
    given_up = gang.to_give_up(observed.waiting, now)
    staying = (group for group in observed.groups if group.name not in course.step.drain)
    for group in staying:
        if group.is_going or group.is_lost or group.revision not in observed.revisions:
            continue
        may_try = now >= gang.retry_at(group.given_up_at or [group.created_at])
        if group.num_asked != len(group.members) and (may_try or not group.is_given_up):
            yield Resize(_reference(service, group), len(group.members), {})
        elif group.is_half_placed and (service.namespace, group.name) in given_up:
            times = {names.ANNOTATION_GIVEN_UP_AT: gang.note(group.given_up_at, now)}
            yield Resize(_reference(service, group), 0, times)


def note_progress(
    service: InferenceService,
    observed: Observed,
    course: Course,
    evidence: Evidence,
    now: float,
) -> Iterator[Operation]:
    """Note on a group once that it was ready, and that it has passed its golden prompts."""
    for group in observed.groups:
        notes = {}
        if group.is_ready and group.ready_at is None:
            notes[names.ANNOTATION_READY_AT] = timestamps.to_text(now)
        if group.name in course.unproved and evidence.golden.get(group.name) == "":
            notes[names.ANNOTATION_GOLDEN_AT] = timestamps.to_text(now)
        if notes and not group.is_going and group.name not in course.step.drain:
            yield Annotate(_reference(service, group), notes)


def _named(groups: Iterable[Group], wanted: tuple[str, ...]) -> Iterator[Group]:
    return (group for group in groups if group.name in wanted)


def _reference(service: InferenceService, group: Group) -> Reference:
    return Reference(
        "StatefulSet", service.namespace, group.name, group.uid, group.resource_version
    )


def _pod_reference(service: InferenceService, pod: Pod) -> Reference:
    """A pod in any version: one that crashes changes all the time."""
    return Reference("Pod", service.namespace, pod.name, pod.uid, "")
