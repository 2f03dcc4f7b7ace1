"""A group, which is one replica: its StatefulSet, its pod, and what the routers say about it.

A group is *routable* when its pod is Ready and every Ready router that speaks has admitted it.
"""

from dataclasses import dataclass

from openinference_operator import names, timestamps
from openinference_operator.pods import Pod
from openinference_operator.rollout import GroupState, Phase
from openinference_operator.routers import RouterView
from openinference_operator.store import Object


@dataclass(frozen=True, slots=True)
class Group:
    """The facts about one group.

    `ready_at`: when its pod was first seen Ready, None if it never was.
    `golden_at`: when it had passed its golden prompts, None if it has not or need not.
    `recreated_at`: when its pod was made anew by the operator, oldest first.
    `is_cut_off`: every router has seen a routing by which the group gets no new request.
    `in_flight`: requests of all routers inside it, None while that is unknown.
    `waiting`, `running`: what the engine reported to the routers last.
    """

    name: str
    revision: str
    uid: str
    resource_version: str
    created_at: float
    ready_at: float | None
    golden_at: float | None
    draining_since: float | None
    recreated_at: tuple[float, ...]
    is_being_deleted: bool
    pod: Pod | None
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


def read_group(statefulset: Object, pod: Pod | None, routers: RouterView) -> Group:
    """Gather the facts about one group."""
    metadata = statefulset["metadata"]
    name, annotations = metadata["name"], metadata.get("annotations") or {}
    can_answer = pod is not None and pod.is_ready and not pod.is_terminating
    may_hold = pod is not None and (pod.is_running or pod.is_terminating)
    reports = routers.reports(name)
    return Group(
        name=name,
        revision=metadata["labels"].get(names.LABEL_REVISION, ""),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        created_at=timestamps.from_text(metadata["creationTimestamp"]),
        ready_at=_time(annotations.get(names.ANNOTATION_READY_AT)),
        golden_at=_time(annotations.get(names.ANNOTATION_GOLDEN_AT)),
        draining_since=_time(annotations.get(names.ANNOTATION_DRAINING_SINCE)),
        recreated_at=_times(annotations.get(names.ANNOTATION_RECREATED_AT)),
        is_being_deleted="deletionTimestamp" in metadata,
        pod=pod,
        is_routable=can_answer and routers.has_admitted(name),
        is_cut_off=not may_hold or routers.has_cut_off(name),
        in_flight=routers.in_flight(name) if may_hold else 0,
        waiting=max((report.waiting for report in reports), default=0),
        running=max((report.running for report in reports), default=0),
    )


def group_state(group: Group, drain_timeout_seconds: int, now: float) -> GroupState:
    """A group as the rollout sees it."""
    return GroupState(
        name=group.name,
        revision=group.revision,
        phase=_phase(group, drain_timeout_seconds, now),
        load=group.load,
        is_being_deleted=group.is_being_deleted,
    )


def _phase(group: Group, drain_timeout_seconds: int, now: float) -> Phase:
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
    if pod is not None and pod.is_running and (group.ready_at or pod.has_started):
        return Phase.UNROUTABLE
    return Phase.BROKEN if pod is not None and pod.trouble is not None else Phase.STARTING


def _time(text: str | None) -> float | None:
    return timestamps.from_text(text) if text else None


def _times(text: str | None) -> tuple[float, ...]:
    return tuple(map(timestamps.from_text, text.split(","))) if text else ()
