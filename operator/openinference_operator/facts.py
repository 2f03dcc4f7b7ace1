"""What the status and its conditions are made from: the facts and the plan, and sums of them."""

from dataclasses import dataclass

from openinference_operator.course import NO_EVIDENCE, Course, Evidence
from openinference_operator.observe import Observed
from openinference_operator.plan import Plan
from openinference_operator.pods import Concern, Trouble
from openinference_operator.rollout import LIVE, GroupState, Phase
from openinference_operator.scaling import Decision
from openinference_operator.sizing import Sizing
from openinference_operator.spec import InferenceService


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
        pods = (
            group.pod
            for group in self.observed.groups
            if group.is_lost or not group.is_being_deleted
        )
        troubles = (pod.trouble for pod in pods if pod is not None and pod.trouble is not None)
        return next((trouble for trouble in troubles if trouble.concern is concern), None)
