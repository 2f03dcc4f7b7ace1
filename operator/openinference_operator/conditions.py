"""The conditions of an InferenceService: each a short list of rules, the first that applies speaks.

A rule is a function of the facts to a `Condition` or None. Conditions have positive polarity; a
False one names the number or the object behind it. The reasons are the closed list of `reasons`.
"""

from collections.abc import Sequence

from openinference_operator.condition import Condition, Rule, count
from openinference_operator.facts import Facts
from openinference_operator.model_conditions import MODEL_RULES
from openinference_operator.progress_conditions import PROGRESS_RULES
from openinference_operator.reasons import Reason
from openinference_operator.recovery import crashes_in_vain, is_spent
from openinference_operator.scaling_conditions import SCALING_CHAINS
from openinference_operator.trouble import Concern


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
    message = f"no pod of {count(len(facts.course.states), 'replica')} lacks a node"
    return Condition("Scheduled", "True", Reason.SCHEDULED, message)


def _all_healthy(facts: Facts) -> Condition:
    message = f"no pod of {count(len(facts.course.states), 'replica')} is in trouble"
    return Condition("GroupsHealthy", "True", Reason.HEALTHY, message)


# RouterReady.


def _no_router(facts: Facts) -> Condition | None:
    if facts.observed.routers.ready:
        return None
    pods = count(len(facts.observed.routers.pods), "router pod")
    message = f"none of {pods} in the namespace is Ready; nothing that serves is drained"
    if trouble := facts.observed.routers.trouble:
        message += f": {trouble}"
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
        "RouterReady", "True", Reason.ROUTERS_READY, f"{count(ready, 'router pod')} Ready"
    )


CHAINS: tuple[tuple[Rule, ...], ...] = (
    (_nobody_can_tell, _somebody_answers, _scaled_to_zero, _nobody_answers),
    PROGRESS_RULES,
    MODEL_RULES,
    (_pod_trouble(Concern.SCHEDULED), _all_scheduled),
    (_budget_spent, _pod_trouble(Concern.GROUPS_HEALTHY), _all_healthy),
    (_no_router, _silent_router, _name_taken, _routers_ready),
)
