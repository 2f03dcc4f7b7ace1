"""When a group that crashes in place is made anew, and when that has been tried often enough: pure.

The kubelet restarts a crashed container in place, which is the fastest way back and loses no
image or volume. Where that does not help (a broken device, a full node), another pod on another
node may: when the kubelet backs off from a container that it has restarted so often, the operator
deletes all pods of the group, for their ranks must meet anew, and its StatefulSet makes new ones.
That is done within the budget of
`failurePolicy.restartBudget`; beyond it the kubelet goes on alone, and the condition says so.

The times are kept as an annotation on the StatefulSet, written before a pod is deleted, so a
restart of the operator cannot spend the budget twice.
"""

from collections.abc import Iterable

from openinference_operator import timestamps
from openinference_operator.groups import Group
from openinference_operator.spec import RestartBudget

CRASHES_IN_PLACE = 5  # with the kubelet's back-off some five minutes


def to_recreate(groups: Iterable[Group], budget: RestartBudget, now: float) -> list[Group]:
    """The groups whose pods shall be made anew now."""
    return [
        group for group in groups if crashes_in_vain(group) and not is_spent(group, budget, now)
    ]


def crashes_in_vain(group: Group) -> bool:
    """Whether restarts in place have not helped."""
    if group.is_going or group.is_ending:
        return False
    return any(pod.is_backing_off and pod.restarts >= CRASHES_IN_PLACE for pod in group.pods)


def is_spent(group: Group, budget: RestartBudget, now: float) -> bool:
    """Whether a group has been made anew as often as its budget allows."""
    return len(_within(group, budget, now)) >= budget.count


def note(group: Group, budget: RestartBudget, now: float) -> str:
    """The annotation after one more time."""
    return ",".join(map(timestamps.to_text, [*_within(group, budget, now), now]))


def budget_returns_at(group: Group, budget: RestartBudget, now: float) -> float:
    """When a group whose budget is spent may be made anew again."""
    return min(_within(group, budget, now), default=now) + budget.window_seconds


def _within(group: Group, budget: RestartBudget, now: float) -> list[float]:
    return [time for time in group.recreated_at if time > now - budget.window_seconds]
