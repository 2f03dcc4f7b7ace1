"""Whether the wanted revision has failed, and which revision to roll out instead: pure.

A rollout fails when a group of the wanted revision crashes again and again, or has never been
ready within `progressDeadline` of its creation (or, in a canary, not passed its golden prompts).
That is judged per group and from what is observed, so no clock has to be kept. Routers are not
part of it: a group that is ready but not routable says nothing against its revision, and neither
does one that was ready and is not.

A failed revision is marked on its ControllerRevision, and the last good one is the target from
then on. The mark lasts as long as the revision is wanted: any other spec, and also the same one
applied again after another, is a new attempt. Without a good revision there is nothing to go back
to, and Kubernetes' own restarts go on.
"""

from collections.abc import Iterable, Iterator, Sequence

from openinference_operator.groups import Group

CRASHES = 3  # restarts, which with the kubelet's back-off take a minute or more


def find_failure(
    groups: Iterable[Group],
    wanted: str,
    deadline_seconds: int,
    now: float,
    unproved: Sequence[str] = (),
) -> str:
    """What is wrong with the wanted revision, in words; empty while it may still succeed.

    `unproved`: groups that have golden prompts still to pass, which the deadline is for, too.
    """
    judged = (group for group in _judged(groups, wanted) if not group.is_lost)
    failures = (
        _crashes(group) or _is_late(group, deadline_seconds, now, unproved) for group in judged
    )
    return next(filter(None, failures), "")


def choose_target(wanted: str, current: str, failure: str) -> str:
    """The revision to roll out: the wanted one, or the last good one if that has failed."""
    return current if failure and current else wanted


def deadlines(
    groups: Iterable[Group], wanted: str, deadline_seconds: int, unproved: Sequence[str] = ()
) -> list[float]:
    """When groups of the wanted revision that are not ready, or not proved, will be late."""
    waiting = (
        group
        for group in _judged(groups, wanted)
        if not _was_ready(group) or group.name in unproved
    )
    return [group.created_at + deadline_seconds for group in waiting]


def _judged(groups: Iterable[Group], wanted: str) -> Iterator[Group]:
    return (group for group in groups if group.revision == wanted and not group.is_going)


def _crashes(group: Group) -> str:
    crashing = (pod for pod in group.pods if pod.is_backing_off and pod.restarts >= CRASHES)
    return next((pod.trouble.message for pod in crashing if pod.trouble is not None), "")


def _is_late(group: Group, deadline_seconds: int, now: float, unproved: Sequence[str]) -> str:
    is_proved = group.name not in unproved
    if (_was_ready(group) and is_proved) or now < group.created_at + deadline_seconds:
        return ""
    if _was_ready(group):
        return f"{group.name} did not answer its golden prompts within {deadline_seconds} s"
    trouble = group.trouble
    late = f"{group.name} was not ready within {deadline_seconds} s"
    return f"{late}: {trouble.message}" if trouble else late


def _was_ready(group: Group) -> bool:
    return group.is_ready or group.ready_at is not None
