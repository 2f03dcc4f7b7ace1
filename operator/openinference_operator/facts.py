"""What the status and its conditions are made from: the facts and the plan, and sums of them."""

from dataclasses import dataclass, replace

from openinference_operator.course import NO_EVIDENCE, Course, Evidence
from openinference_operator.groups import Group
from openinference_operator.observe import Observed
from openinference_operator.plan import Plan
from openinference_operator.reasons import Reason
from openinference_operator.rollout import LIVE, GroupState, Phase
from openinference_operator.scaling import Decision
from openinference_operator.sizing import Sizing
from openinference_operator.spec import InferenceService
from openinference_operator.trouble import Concern, Trouble


@dataclass(frozen=True, slots=True)
class Facts:
    """All that conditions are made from. `decision` is None without autoscaling.

    `evidence`: what is known of a revision on trial.
    """

    service: InferenceService
    observed: Observed
    plan: Plan
    decision: Decision | None
    now: float
    evidence: Evidence = NO_EVIDENCE

    @property
    def course(self) -> Course:
        """The decisions about the rollout."""
        return self.plan.course

    @property
    def sizing(self) -> Sizing | None:
        """How the memory of a replica is divided; None while the model is not known."""
        return self.observed.sizing(self.service)

    @property
    def routable(self) -> int:
        """Replicas that every router sends requests to, draining ones not counted."""
        return sum(state.phase is Phase.ROUTABLE for state in self.course.states)

    @property
    def old(self) -> list[GroupState]:
        """Groups of another revision than the one rolled out that are still there."""
        return [state for state in self.there if state.revision != self.course.target]

    @property
    def there(self) -> list[GroupState]:
        """All groups but those on a lost node, for which nobody waits."""
        return [state for state in self.course.states if state.phase is not Phase.LOST]

    @property
    def updated(self) -> list[GroupState]:
        """Groups of the revision rolled out that do not go."""
        return [
            state
            for state in self.course.states
            if state.revision == self.course.target and state.phase in LIVE
        ]

    @property
    def needed(self) -> int:
        """Routable replicas for which the service counts as ready.

        What the autoscaler adds above its minimum is not missed while it starts.
        """
        if self.service.suspend:
            return 0
        if self.service.autoscaling:
            return min(self.service.autoscaling.min_replicas, self.plan.desired)
        return self.plan.desired

    @property
    def is_at_zero(self) -> bool:
        """Whether the autoscaler wants no replica, and none is left that takes requests."""
        is_wanted = self.service.autoscaling is not None and self.plan.desired == 0
        is_left = any(state.phase in LIVE for state in self.course.states)
        return is_wanted and not self.service.suspend and not is_left

    def trouble(self, concern: Concern) -> Trouble | None:
        """What is wrong with the first pod in trouble of that kind."""
        troubles = map(self._trouble_of, self.observed.groups)
        return next((each for each in troubles if each and each.concern is concern), None)

    def _trouble_of(self, group: Group) -> Trouble | None:
        obstacle = self.observed.obstacles.get(group.name)
        if obstacle is not None and not obstacle.has_pod:
            words = obstacle.words or "its events tell why (kubectl describe)"
            message = f"StatefulSet {group.name} gets no pod: {words}"
            return Trouble(Concern.GROUPS_HEALTHY, Reason.POD_NOT_CREATED, message)
        if group.is_being_deleted and not group.is_lost:
            return None
        if obstacle is None:
            return group.trouble
        pod = group.troubled
        if pod is None or pod.trouble is None:
            stalled = group.being_made.name if group.being_made else group.name
            message = f"pod {stalled} does not start: {obstacle.words}"
            return Trouble(Concern.GROUPS_HEALTHY, Reason.POD_NOT_STARTED, message)
        placed = sum(each.is_placed for each in group.pods)
        where = (
            f"{placed} of {len(group.members)} pods have a node, " if group.is_half_placed else ""
        )
        return replace(pod.trouble, message=f"{where}pod {pod.name} {obstacle.words}")
