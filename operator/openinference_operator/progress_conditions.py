"""Progressing: the way to the wanted revision and number."""

import math
from collections.abc import Sequence

from openinference_operator import timestamps
from openinference_operator.canary import Stage
from openinference_operator.condition import Condition, Rule, count
from openinference_operator.facts import Facts
from openinference_operator.reasons import Reason
from openinference_operator.rollout import GroupState, Phase


def _suspended(facts: Facts) -> Condition | None:
    if not facts.service.suspend:
        return None
    left = len(facts.course.states)
    message = f"spec.suspend is true: {count(left, 'replica')} left to drain and delete"
    return Condition("Progressing", "True", Reason.SUSPENDED, message)


def _rolled_back(facts: Facts) -> Condition | None:
    if not facts.course.is_rolled_back:
        return None
    message = (
        f"revision {facts.course.revision} failed, {facts.course.target} is kept:"
        f" {facts.course.failure};"
        " change the spec, or the annotation openinference.dev/restartedAt, to try again"
    )
    return Condition("Progressing", "False", Reason.ROLLED_BACK, message)


def _failed(facts: Facts) -> Condition | None:
    if not facts.course.failure:
        return None
    message = f"revision {facts.course.revision} has no good one before it: {facts.course.failure}"
    return Condition("Progressing", "False", Reason.PROGRESS_DEADLINE_EXCEEDED, message)


def _paused(facts: Facts) -> Condition | None:
    is_over = facts.course.revision == facts.observed.current_revision
    if not facts.service.rollout.paused or is_over or facts.course.is_rolled_back:
        return None
    fresh, old = _routable(facts.updated), len(facts.old)
    message = (
        f"spec.rollout.paused is true: {fresh} updated replicas of revision {facts.course.target}"
        f" are routable, {old} of older revisions stay"
    )
    return Condition("Progressing", "Unknown", Reason.PAUSED, message)


def _analysis_missing(facts: Facts) -> Condition | None:
    stage, missing = facts.course.stage, facts.evidence.verdict.missing
    if stage is None or stage.ends_at is None or facts.now < stage.ends_at or not missing:
        return None
    message = f"{_canary_words(stage, facts)}; its pause is over, but there is no {missing}"
    return Condition("Progressing", "Unknown", Reason.ANALYSIS_UNAVAILABLE, message)


def _canary(facts: Facts) -> Condition | None:
    stage = facts.course.stage
    if stage is None or stage.is_complete:
        return None
    message = _canary_words(stage, facts)
    if facts.course.unproved:
        message += f"; {', '.join(facts.course.unproved)} has golden prompts to answer first"
    if stage.ends_at is not None:
        message += f", until {timestamps.to_text(stage.ends_at)} at least"
    if seen := facts.evidence.verdict.seen:
        message += f"; {seen}"
    return Condition("Progressing", "True", Reason.CANARY, message)


def _canary_words(stage: Stage, facts: Facts) -> str:
    canary = facts.service.rollout.canary
    number = len(canary.steps) if canary is not None else 0
    return (
        f"step {stage.place.done + 1} of {number}: revision {facts.course.target} gets"
        f" {stage.weight} % of the requests"
    )


def _rolling_out(facts: Facts) -> Condition | None:
    if not facts.old:
        return None
    draining = [state.name for state in facts.course.states if state.phase is Phase.DRAINING]
    message = (
        f"revision {facts.course.target}: {_routable(facts.updated)} of {facts.plan.desired}"
        f" updated replicas are routable, {len(facts.old)} of older revisions left"
    )
    if draining:
        message += f"; draining {', '.join(draining)}"
    message += _missed(facts)
    return Condition("Progressing", "True", Reason.ROLLING_OUT, message)


def _changing_replicas(facts: Facts) -> Condition | None:
    present, desired = len(facts.there), facts.plan.desired
    if present == desired == facts.routable:
        return None
    reason = Reason.STARTING if len(facts.updated) <= desired else Reason.SCALING_DOWN
    message = (
        f"revision {facts.course.target}: {facts.routable} of {desired} replicas are routable,"
        f" {present} exist{_missed(facts)}"
    )
    return Condition("Progressing", "True", reason, message)


def _missed(facts: Facts) -> str:
    """The first group that is Ready and that routers do not reach; they alone know why."""
    late = (each for each in facts.observed.groups if facts.now >= (each.is_missed_at or math.inf))
    group = next(late, None)
    routers = facts.observed.routers.not_admitting(group.name) if group else ()
    if group is None or not routers:
        return ""
    return f"; {group.name} is Ready, and {', '.join(routers)} do not reach it (see their logs)"


def _complete(facts: Facts) -> Condition:
    message = f"{count(facts.plan.desired, 'replica')} of revision {facts.course.target}"
    return Condition("Progressing", "True", Reason.COMPLETE, message)


PROGRESS_RULES: tuple[Rule, ...] = (
    _suspended,
    _rolled_back,
    _failed,
    _paused,
    _analysis_missing,
    _canary,
    _rolling_out,
    _changing_replicas,
    _complete,
)


def _routable(states: Sequence[GroupState]) -> int:
    return sum(state.phase is Phase.ROUTABLE for state in states)
