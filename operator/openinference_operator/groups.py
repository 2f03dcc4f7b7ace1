"""A group, which is one replica: its StatefulSet, its pods, and what the routers say about it.

Pod 0 answers, the others run ranks alone. A group is *ready* when all its pods are, and *routable*
when it is ready and every Ready router that speaks has admitted it.
"""

from dataclasses import dataclass

from openinference_operator import names, timestamps
from openinference_operator.gang import retry_at
from openinference_operator.pods import Pod
from openinference_operator.reasons import Reason
from openinference_operator.rollout import GroupState, Phase
from openinference_operator.routers import RouterView
from openinference_operator.store import Object
from openinference_operator.trouble import Concern, Trouble

ADMISSION_SECONDS = 10.0  # for routers to hear of a group and to reach it, some times over


@dataclass(frozen=True, slots=True)
class Group:
    """The facts about one group.

    `members`: its pods by index, None for one that does not exist.
    `ready_at`: when all its pods were first seen Ready, None if they never were.
    `given_up_at`: when it gave up its nodes for want of others, oldest first.
    `num_asked`: pods that its StatefulSet asks for.
    `golden_at`: when it had passed its golden prompts, None if it has not or need not.
    `recreated_at`: when its pods were made anew by the operator, oldest first.
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
    given_up_at: tuple[float, ...]
    num_asked: int
    is_being_deleted: bool
    members: tuple[Pod | None, ...]
    is_routable: bool
    is_cut_off: bool
    in_flight: int | None
    waiting: int
    running: int

    @property
    def pod(self) -> Pod | None:
        """The pod that answers."""
        return self.members[0]

    @property
    def pods(self) -> list[Pod]:
        """The pods that exist."""
        return [pod for pod in self.members if pod is not None]

    @property
    def num_ready_pods(self) -> int:
        """Pods whose ranks have joined the group and loaded."""
        return sum(pod.is_ready for pod in self.pods)

    @property
    def is_ready(self) -> bool:
        """Whether every pod is Ready: a group that lacks one computes nothing."""
        return self.num_ready_pods == len(self.members)

    @property
    def is_lost(self) -> bool:
        """Whether a pod is on a node that does not answer: the others wait for it in vain."""
        return any(pod.is_lost for pod in self.pods)

    @property
    def is_ending(self) -> bool:
        """Whether a pod was told to end, which drains the whole group."""
        return any(pod.is_terminating for pod in self.pods)

    @property
    def troubled(self) -> Pod | None:
        """The pod in trouble that is the cause, if one of them pulled the others down."""
        # Each pod of a group whose ranks lose each other ends, and is started again by the kubelet.
        # So does one that another has not come to meet, but not so often as the other.
        troubled = [pod for pod in self.pods if pod.trouble]
        crashing = max(troubled, key=lambda pod: pod.restarts, default=None)
        return next(filter(_is_cause, troubled), crashing)

    @property
    def is_given_up(self) -> bool:
        """Whether it has no pods now, because it found nodes for some only."""
        return self.num_asked == 0

    @property
    def is_half_placed(self) -> bool:
        """Whether pods of it hold nodes while others find none."""
        lacks = any(pod.trouble and pod.trouble.concern is Concern.SCHEDULED for pod in self.pods)
        return lacks and any(pod.is_placed for pod in self.pods)

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with it and will not pass by waiting."""
        if self.is_given_up:
            return self._given_up()
        return self.troubled.trouble if self.troubled else self._missing()

    @property
    def being_made(self) -> Pod | None:
        """The first pod that has a node and whose containers are not made yet."""
        return next((pod for pod in self.pods if pod.is_being_made), None)

    def _given_up(self) -> Trouble:
        again = timestamps.to_text(retry_at(self.given_up_at or [self.created_at]))
        message = (
            f"{self.name} found nodes for some of its {len(self.members)} pods only and gave them"
            f" up, {len(self.given_up_at)} times lately; it tries again at {again}"
        )
        return Trouble(Concern.SCHEDULED, Reason.GROUP_GIVEN_UP, message)

    def _missing(self) -> Trouble | None:
        """A pod that left a group that was whole, though nothing is known to be wrong with it."""
        number = len(self.members)
        if number == 1 or self.ready_at is None or self.is_ready or self.is_going:
            return None
        missing = [
            index for index, pod in enumerate(self.members) if pod is None or not pod.is_ready
        ]
        # Pod 0 is not ready without the others, so another one is likelier the cause.
        name, pod = names.pod(self.name, missing[-1]), self.members[missing[-1]]
        what = "does not exist" if pod is None else "is not ready"
        message = f"{self.num_ready_pods} of {number} pods of {self.name} are ready: {name} {what}"
        return Trouble(Concern.GROUPS_HEALTHY, Reason.RANK_LOST, message)

    @property
    def is_missed_at(self) -> float | None:
        """When one that is Ready, and to which routers send nothing, has been so for too long."""
        is_missed = self.is_ready and not (self.is_routable or self.is_going or self.is_ending)
        return self.ready_at + ADMISSION_SECONDS if is_missed and self.ready_at else None

    @property
    def is_going(self) -> bool:
        """Whether it drains or is being deleted."""
        return self.is_being_deleted or self.draining_since is not None

    @property
    def load(self) -> int:
        """Requests inside the group, for choosing which one goes."""
        return max(self.in_flight or 0, self.waiting + self.running)


def read_group(statefulset: Object, members: tuple[Pod | None, ...], routers: RouterView) -> Group:
    """Gather the facts about one group."""
    metadata = statefulset["metadata"]
    name, annotations = metadata["name"], metadata.get("annotations") or {}
    can_answer = all(pod is not None and pod.is_ready and not pod.is_terminating for pod in members)
    pod = members[0]
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
        given_up_at=_times(annotations.get(names.ANNOTATION_GIVEN_UP_AT)),
        num_asked=statefulset["spec"].get("replicas", 1),
        is_being_deleted="deletionTimestamp" in metadata,
        members=members,
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
    return Phase.BROKEN if group.trouble is not None else Phase.STARTING


def _is_cause(pod: Pod) -> bool:
    return pod.trouble is not None and pod.trouble.reason is not Reason.CRASH_LOOP


def _time(text: str | None) -> float | None:
    return timestamps.from_text(text) if text else None


def _times(text: str | None) -> tuple[float, ...]:
    return tuple(map(timestamps.from_text, text.split(","))) if text else ()
