"""The conditions of an InferenceService: each a short list of rules, the first that applies speaks.

A rule is a function of the facts to a `Condition` or None. Conditions have positive polarity; a
False one names the number or the object behind it. The reasons are the closed list of `reasons`.
"""

from collections.abc import Sequence

from openinference_operator import timestamps
from openinference_operator.canary import Stage
from openinference_operator.condition import Condition, Rule
from openinference_operator.facts import Facts
from openinference_operator.model_conditions import MODEL_RULES
from openinference_operator.pods import Concern
from openinference_operator.reasons import Reason
from openinference_operator.recovery import crashes_in_vain, is_spent
from openinference_operator.rollout import GroupState, Phase


def judge(facts: Facts) -> list[Condition]:
    """All conditions, Ready first."""
    others = [_first(rules, facts) for rules in CHAINS]
    if facts.decision is not None:
        others += [_first(rules, facts) for rules in SCALING_CHAINS]
    return [_ready(facts, others), *others]


def refused(reason: Reason, message: str) -> list[Condition]:
    """The conditions of a service that cannot be reconciled as it is; what runs goes on."""
    return [
        Condition("Ready", "False", reason, message),
        Condition("Progressing", "False", reason, message),
    ]


def _first(rules: Sequence[Rule], facts: Facts) -> Condition:
    return next(condition for rule in rules if (condition := rule(facts)))


# Ready: the sum of the others.


CAUSES = ("ModelReady", "Scheduled", "GroupsHealthy", "RouterReady")


def _ready(facts: Facts, others: Sequence[Condition]) -> Condition:
    if facts.service.suspend:
        return Condition(
            "Ready", "False", Reason.SUSPENDED, "spec.suspend is true: no replica runs"
        )
    by_type = {condition.type: condition for condition in others}
    available, progressing = by_type["Available"], by_type["Progressing"]
    complete = facts.routable >= facts.needed and not facts.old and not facts.course.is_rolled_back
    if available.status == "True" and complete:
        return Condition("Ready", "True", Reason.SERVING, available.message)
    if facts.is_at_zero and by_type["RouterReady"].status == "True":
        return Condition("Ready", "True", Reason.SCALED_TO_ZERO, available.message)
    blockers = (by_type[name] for name in CAUSES)
    cause = next((condition for condition in blockers if condition.status != "True"), progressing)
    is_unknown = available.status == "Unknown"
    return Condition("Ready", "Unknown" if is_unknown else "False", cause.reason, cause.message)


# Available: somebody answers.


def _nobody_can_tell(facts: Facts) -> Condition | None:
    silent = facts.observed.routers.silent
    if not silent or len(silent) < len(facts.observed.routers.ready):
        return None
    message = f"no router pod tells its state: {', '.join(silent)}"
    return Condition("Available", "Unknown", Reason.ROUTER_STATE_UNKNOWN, message)


def _somebody_answers(facts: Facts) -> Condition | None:
    if not facts.routable:
        return None
    message = f"{facts.routable} of {facts.plan.desired} replicas are routable"
    return Condition("Available", "True", Reason.REPLICAS_ROUTABLE, message)


def _scaled_to_zero(facts: Facts) -> Condition | None:
    if not facts.is_at_zero:
        return None
    message = "no replica runs because nobody asks; the next request is held and starts one"
    return Condition("Available", "False", Reason.SCALED_TO_ZERO, message)


def _nobody_answers(facts: Facts) -> Condition:
    message = f"0 of {facts.plan.desired} replicas are routable"
    return Condition("Available", "False", Reason.NO_ROUTABLE_REPLICA, message)


# Progressing: the way to the wanted revision and number.


def _suspended(facts: Facts) -> Condition | None:
    if not facts.service.suspend:
        return None
    left = len(facts.course.states)
    message = f"spec.suspend is true: {_count(left, 'replica')} left to drain and delete"
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
    return Condition("Progressing", "True", Reason.ROLLING_OUT, message)


def _changing_replicas(facts: Facts) -> Condition | None:
    count, desired = len(facts.there), facts.plan.desired
    if count == desired == facts.routable:
        return None
    reason = Reason.STARTING if len(facts.updated) <= desired else Reason.SCALING_DOWN
    message = (
        f"revision {facts.course.target}: {facts.routable} of {desired} replicas are routable,"
        f" {count} exist"
    )
    return Condition("Progressing", "True", reason, message)


def _complete(facts: Facts) -> Condition:
    message = f"{_count(facts.plan.desired, 'replica')} of revision {facts.course.target}"
    return Condition("Progressing", "True", Reason.COMPLETE, message)


# Scheduled and GroupsHealthy: pods in trouble.


def _pod_trouble(concern: Concern) -> Rule:
    def rule(facts: Facts) -> Condition | None:
        trouble = facts.trouble(concern)
        if trouble is None:
            return None
        return Condition(concern.value, "False", trouble.reason, trouble.message)

    return rule


def _budget_spent(facts: Facts) -> Condition | None:
    budget = facts.service.restart_budget
    spent = [
        group
        for group in facts.observed.groups
        if crashes_in_vain(group) and is_spent(group, budget, facts.now)
    ]
    if not spent:
        return None
    message = (
        f"{spent[0].name} was made anew {budget.count} times within {budget.window_seconds} s"
        " and crashes still; only its container is restarted from now on"
    )
    if trouble := facts.trouble(Concern.GROUPS_HEALTHY):
        message += f": {trouble.message}"
    return Condition("GroupsHealthy", "False", Reason.RESTART_BUDGET_SPENT, message)


def _all_scheduled(facts: Facts) -> Condition:
    message = f"no pod of {_count(len(facts.course.states), 'replica')} lacks a node"
    return Condition("Scheduled", "True", Reason.SCHEDULED, message)


def _all_healthy(facts: Facts) -> Condition:
    message = f"no pod of {_count(len(facts.course.states), 'replica')} is in trouble"
    return Condition("GroupsHealthy", "True", Reason.HEALTHY, message)


# RouterReady.


def _no_router(facts: Facts) -> Condition | None:
    if facts.observed.routers.ready:
        return None
    pods = _count(len(facts.observed.routers.pods), "router pod")
    message = f"none of {pods} in the namespace is Ready; nothing that serves is drained"
    return Condition("RouterReady", "False", Reason.ROUTER_NOT_READY, message)


def _silent_router(facts: Facts) -> Condition | None:
    silent = facts.observed.routers.silent
    if not silent:
        return None
    message = f"router pods do not tell their state, so nothing is drained: {', '.join(silent)}"
    return Condition("RouterReady", "Unknown", Reason.ROUTER_STATE_UNKNOWN, message)


def _name_taken(facts: Facts) -> Condition | None:
    older, model = facts.observed.name_taken_by, facts.service.model.name
    if not older:
        return None
    message = (
        f"model name {model!r} leads to the older InferenceService {older!r};"
        " this one is reached by its own host only, or after it is made anew with another name"
    )
    return Condition("RouterReady", "False", Reason.MODEL_NAME_TAKEN, message)


def _routers_ready(facts: Facts) -> Condition:
    ready = len(facts.observed.routers.ready)
    return Condition(
        "RouterReady", "True", Reason.ROUTERS_READY, f"{_count(ready, 'router pod')} Ready"
    )


# AbleToScale, ScalingActive, ScalingLimited: as HorizontalPodAutoscaler names them.


def _scaling_stabilized(facts: Facts) -> Condition | None:
    if facts.decision is None or not facts.decision.is_stabilized:
        return None
    message = f"earlier recommendations hold the number; {facts.decision.message}"
    return Condition("AbleToScale", "True", Reason.STABILIZED, message)


def _able_to_scale(facts: Facts) -> Condition:
    return Condition("AbleToScale", "True", Reason.READY_FOR_NEW_SCALE, "the number may change now")


def _scaling_disabled(facts: Facts) -> Condition | None:
    if not facts.service.suspend:
        return None
    return Condition("ScalingActive", "False", Reason.SCALING_DISABLED, "spec.suspend is true")


def _metrics_lost(facts: Facts) -> Condition | None:
    if facts.decision is None or facts.decision.is_active:
        return None
    return Condition("ScalingActive", "False", Reason.METRICS_UNAVAILABLE, facts.decision.message)


def _fallback(facts: Facts) -> Condition | None:
    if facts.decision is None or not facts.decision.uses_fallback:
        return None
    message = f"Prometheus has no value, the routers tell; {facts.decision.message}"
    return Condition("ScalingActive", "True", Reason.FALLBACK_DEMAND, message)


def _partly_lost(facts: Facts) -> Condition | None:
    if facts.decision is None or not facts.decision.is_partly_lost:
        return None
    message = f"the number does not shrink while a metric is lost; {facts.decision.message}"
    return Condition("ScalingActive", "True", Reason.SOME_METRICS_UNAVAILABLE, message)


def _metric_found(facts: Facts) -> Condition:
    return Condition("ScalingActive", "True", Reason.VALID_METRIC_FOUND, "every metric has a value")


def _scaling_limited(facts: Facts) -> Condition | None:
    if facts.decision is None or facts.decision.limited_by is None:
        return None
    return Condition("ScalingLimited", "True", facts.decision.limited_by, facts.decision.message)


def _scaling_unlimited(facts: Facts) -> Condition:
    message = f"{_count(facts.plan.desired, 'replica')}, within bounds and policies"
    return Condition("ScalingLimited", "False", Reason.DESIRED_WITHIN_RANGE, message)


CHAINS: tuple[tuple[Rule, ...], ...] = (
    (_nobody_can_tell, _somebody_answers, _scaled_to_zero, _nobody_answers),
    (
        _suspended,
        _rolled_back,
        _failed,
        _paused,
        _analysis_missing,
        _canary,
        _rolling_out,
        _changing_replicas,
        _complete,
    ),
    MODEL_RULES,
    (_pod_trouble(Concern.SCHEDULED), _all_scheduled),
    (_budget_spent, _pod_trouble(Concern.GROUPS_HEALTHY), _all_healthy),
    (_no_router, _silent_router, _name_taken, _routers_ready),
)
SCALING_CHAINS: tuple[tuple[Rule, ...], ...] = (
    (_scaling_stabilized, _able_to_scale),
    (_scaling_disabled, _metrics_lost, _fallback, _partly_lost, _metric_found),
    (_scaling_limited, _scaling_unlimited),
)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _routable(states: Sequence[GroupState]) -> int:
    return sum(state.phase is Phase.ROUTABLE for state in states)
