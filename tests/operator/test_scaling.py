"""The autoscaler as a pure function: single evaluations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_operator.scaling import Demand
from openinference_operator.scaling_spec import SCALE_UP, Policy

from tests.operator.scalers import LOST, autoscaling, evaluate, rules, waiting

EVALUATIONS = {
    # name: (waiting, running, replicas, routable) -> desired
    "an empty queue asks for the minimum": (0, 0, 3, 3, 1),
    "a queue at its target holds": (12, 0, 3, 3, 3),
    "a queue within the tolerance holds": (13, 0, 3, 3, 3),
    "a queue just out of the tolerance scales": (14, 0, 3, 3, 4),
    "a long queue asks for its share": (40, 0, 1, 1, 10),
    "no more than the maximum": (400, 0, 1, 1, 10),
    "requests that run keep their seats": (0, 12, 3, 3, 3),
    "requests that wait need seats, too": (2, 7, 3, 3, 3),
    "free seats may go": (0, 5, 3, 3, 2),
    "more running than seats asks for no more": (0, 100, 3, 3, 3),
    "starting replicas are not asked for twice": (15, 0, 4, 1, 4),
    "starting replicas cause no scale-down": (8, 0, 4, 1, 4),
    "starting replicas that nobody needs may go": (3, 0, 4, 1, 1),
    "below the minimum goes to it": (0, 0, 0, 0, 1),
}


@pytest.mark.parametrize(
    ("queue", "running", "current", "routable", "desired"),
    EVALUATIONS.values(),
    ids=EVALUATIONS.keys(),
)
def test_single_evaluation(queue, running, current, routable, desired):
    decision, _ = evaluate(waiting(queue, running), current, routable=routable)
    assert decision.desired == desired


@pytest.mark.parametrize("current", [1, 3, 10])
def test_a_lost_metric_holds(current):
    decision, _ = evaluate(LOST, current)
    assert (decision.desired, decision.reason, decision.is_active) == (
        current,
        "MetricsUnavailable",
        False,
    )
    assert "nobody answers" in decision.message


@pytest.mark.parametrize(("current", "bounded"), [(0, 2), (9, 5)])
def test_bounds_hold_even_while_metrics_are_lost(current, bounded):
    decision, _ = evaluate(LOST, current, autoscaling(minimum=2, maximum=5))
    assert decision.desired == bounded


def test_the_fallback_is_named():
    decision, _ = evaluate(Demand(8, 0, "Routers"), 2)
    assert decision.uses_fallback
    assert decision.is_active


LIMITS = {
    "pods": (autoscaling(up=rules(Policy("Pods", 2, 60))), 3, 5, "ScaleUpLimit"),
    "percent": (autoscaling(up=rules(Policy("Percent", 50, 60))), 3, 5, "ScaleUpLimit"),
    "the larger policy": (
        autoscaling(up=rules(Policy("Pods", 1, 60), Policy("Percent", 100, 60))),
        3,
        6,
        "ScaleUpLimit",
    ),
    "the smaller policy": (
        autoscaling(up=rules(Policy("Pods", 1, 60), Policy("Percent", 100, 60), select="Min")),
        3,
        4,
        "ScaleUpLimit",
    ),
    "disabled": (
        autoscaling(up=rules(Policy("Pods", 9, 60), select="Disabled")),
        3,
        3,
        "ScaleUpLimit",
    ),
    "the maximum": (autoscaling(maximum=7), 3, 7, "TooManyReplicas"),
    "HPA's defaults": (autoscaling(up=SCALE_UP), 1, 5, "ScaleUpLimit"),
    "HPA's defaults, when there are many": (autoscaling(up=SCALE_UP), 5, 10, None),
}


@pytest.mark.parametrize(
    ("scaler", "current", "desired", "limit"), LIMITS.values(), ids=LIMITS.keys()
)
def test_limits_on_the_way_up(scaler, current, desired, limit):
    decision, _ = evaluate(waiting(40), current, scaler)
    assert (decision.desired, decision.limited_by) == (desired, limit)


@pytest.mark.parametrize(
    ("policy", "desired"),
    [(Policy("Pods", 2, 60), 6), (Policy("Percent", 50, 60), 4), (Policy("Pods", 20, 60), 1)],
)
def test_limits_on_the_way_down(policy, desired):
    decision, _ = evaluate(waiting(0), 8, autoscaling(down=rules(policy)))
    assert decision.desired == desired


def test_the_message_tells_the_numbers():
    decision, _ = evaluate(waiting(9, running=4), 2)
    assert decision.message == (
        "replicas: 2 -> 3, metrics ask for 3 "
        "(Queue: 9 waiting, 4 running, target 4 waiting per replica)"
    )


@given(st.integers(1, 10), st.floats(0, 1000), st.floats(0, 1000))
def test_a_scale_down_leaves_a_seat_for_every_request(current, queue, running):
    decision, _ = evaluate(waiting(queue, running), current)
    fits = decision.desired * 4 >= queue + running
    assert decision.desired >= current or fits
