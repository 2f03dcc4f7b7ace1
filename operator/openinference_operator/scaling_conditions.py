"""AbleToScale, ScalingActive, ScalingLimited: as HorizontalPodAutoscaler names them."""

from openinference_operator.condition import Condition, Rule, count
from openinference_operator.facts import Facts
from openinference_operator.reasons import Reason


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
    message = f"{count(facts.plan.desired, 'replica')}, within bounds and policies"
    return Condition("ScalingLimited", "False", Reason.DESIRED_WITHIN_RANGE, message)


SCALING_CHAINS: tuple[tuple[Rule, ...], ...] = (
    (_scaling_stabilized, _able_to_scale),
    (_scaling_disabled, _metrics_lost, _fallback, _partly_lost, _metric_found),
    (_scaling_limited, _scaling_unlimited),
)
