"""What routers are told about the groups of a service: which exist, which drain, with what weight.

All groups weigh the same, but for a canary: then each side gets its share of the requests, however
many groups it has. A group that has golden prompts still to pass is not told at all, so no
client's request reaches it before it has. Pure.
"""

from collections.abc import Iterable

from openinference_operator.canary import FULL_WEIGHT, group_weights
from openinference_operator.course import Course
from openinference_operator.groups import Group
from openinference_operator.manifests.routing import Route
from openinference_operator.rollout import Phase


def build_routes(groups: Iterable[Group], course: Course) -> list[Route]:
    """The groups that have a pod, as the routers shall see them from now on."""
    fresh, old = _weights(course)
    told = (
        group
        for group in groups
        if group.pod is not None and not group.is_lost and group.name not in course.unproved
    )
    return [
        Route(
            group=group.name,
            revision=group.revision,
            state="Draining"
            if group.name in course.step.drain or group.is_going or group.is_ending
            else "Active",
            weight=fresh if group.revision == course.target else old,
        )
        for group in told
    ]


def _weights(course: Course) -> tuple[int, int]:
    """Weights of one group of the target, and of one of any other revision."""
    if course.share is None:
        return FULL_WEIGHT, FULL_WEIGHT
    routable = [state.revision for state in course.states if state.phase is Phase.ROUTABLE]
    num_fresh = routable.count(course.target)
    return group_weights(course.share, num_fresh, len(routable) - num_fresh)
