"""The autoscaler as a pure function: single evaluations, then whole stories in time."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_operator.pacing import Memory
from openinference_operator.scaling import Capacity, Demand, Lost, decide, queue_reading
from openinference_operator.scaling_spec import (
    SCALE_DOWN,
    SCALE_UP,
    Autoscaling,
    Average,
    Policy,
    ScalingRules,
)

FREELY = ScalingRules(0, "Max", (Policy("Percent", 100000, 15),), Decimal("0.1"))
LOST = Lost("nobody answers")


def autoscaling(up=FREELY, down=FREELY, minimum=1, maximum=10, target="4", idle_after=60):
    metrics = (Average("Queue", Decimal(target)),)
    return Autoscaling(minimum, maximum, 15, idle_after, metrics, up, down)


def evaluate(demand, current, rules=None, routable=None, seats=4, memory=None, now=1000.0):
    """One evaluation; the memory is that of a scaler that has seen nothing before."""
    capacity = Capacity(current, current if routable is None else routable, seats)
    rules = rules or autoscaling()
    return decide(rules, [read(demand)], demand, capacity, memory or Memory(()), now)


def read(demand):
    return demand if isinstance(demand, Lost) else queue_reading(demand)


def waiting(requests, running=0):
    return Demand(requests, running, "Prometheus")


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


def rules(*policies, window=0, select="Max"):
    given = policies or (Policy("Pods", 9, 60),)
    return ScalingRules(window, select, given, Decimal("0.1"))


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


def play(scaler, current, demands, interval=15.0, routable=None):
    """Evaluate a series of demands; return the number of replicas after each."""
    memory, now, history = Memory.begin(current, 0.0), 0.0, []
    for demand in demands:
        now += interval
        capacity = Capacity(current, current if routable is None else routable, 4)
        decision, memory = decide(scaler, [read(demand)], demand, capacity, memory, now)
        current = decision.desired
        history.append(current)
    return history


def test_policies_count_the_changes_of_their_period():
    scaler = autoscaling(up=rules(Policy("Pods", 1, 60)))
    assert play(scaler, 1, [waiting(40)] * 9) == [2, 2, 2, 2, 3, 3, 3, 3, 4]


def test_scale_down_waits_for_its_window():
    scaler = autoscaling(down=rules(Policy("Percent", 100, 15), window=60))
    assert play(scaler, 3, [waiting(0)] * 5) == [3, 3, 3, 1, 1]


def test_a_busy_moment_restarts_the_window():
    scaler = autoscaling(down=rules(Policy("Percent", 100, 15), window=60))
    demands = [waiting(0), waiting(0), waiting(12), *[waiting(0)] * 5]
    assert play(scaler, 3, demands) == [3, 3, 3, 3, 3, 3, 1, 1]


def test_scale_up_waits_for_its_window():
    scaler = autoscaling(up=rules(Policy("Pods", 100, 15), window=30))
    assert play(scaler, 1, [waiting(8)] * 3) == [1, 2, 2]


def test_a_new_leader_begins_a_new_window():
    scaler = autoscaling(down=SCALE_DOWN)
    assert play(scaler, 5, [waiting(0)] * 19) == [5] * 19
    assert play(scaler, 5, [waiting(0)] * 20)[-1] == 1


def test_lost_metrics_restart_the_window():
    scaler = autoscaling(down=rules(Policy("Percent", 100, 15), window=60))
    demands = [waiting(0), LOST, *[waiting(0)] * 4]
    assert play(scaler, 3, demands) == [3, 3, 3, 3, 3, 1]


def test_the_message_tells_the_numbers():
    decision, _ = evaluate(waiting(9, running=4), 2)
    assert decision.message == (
        "replicas: 2 -> 3, metrics ask for 3 "
        "(Queue: 9 waiting, 4 running, target 4 waiting per replica)"
    )


IDLE, BUSY = waiting(0), waiting(0, running=1)


def test_to_zero_when_idle_for_long_enough_whatever_the_window():
    scaler = autoscaling(minimum=0, down=SCALE_DOWN)
    assert play(scaler, 3, [IDLE] * 6) == [3, 3, 3, 3, 0, 0]


def test_one_replica_stays_until_then():
    scaler = autoscaling(minimum=0)
    assert play(scaler, 3, [IDLE] * 5) == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("interruption", [BUSY, waiting(1), LOST], ids=["busy", "waiting", "lost"])
def test_idleness_begins_anew_after(interruption):
    scaler = autoscaling(minimum=0)
    demands = [IDLE, IDLE, IDLE, interruption, *[IDLE] * 5]
    assert play(scaler, 1, demands) == [1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_without_a_minimum_of_zero_idleness_changes_nothing():
    assert play(autoscaling(minimum=1), 1, [IDLE] * 9) == [1] * 9


def test_scaling_down_that_is_disabled_does_not_reach_zero():
    scaler = autoscaling(minimum=0, down=rules(select="Disabled"))
    assert play(scaler, 1, [IDLE] * 9) == [1] * 9


FROM_ZERO = {
    "one request": (waiting(1), SCALE_UP, 1),
    "many requests, within the policies": (waiting(40), SCALE_UP, 4),
    "whatever the window": (waiting(1), rules(Policy("Pods", 4, 15), window=300), 1),
    "when only percentages are allowed": (waiting(40), rules(Policy("Percent", 100, 15)), 1),
    "when scaling up is disabled": (
        waiting(40),
        rules(Policy("Pods", 4, 15), select="Disabled"),
        1,
    ),
    "nobody asks": (IDLE, SCALE_UP, 0),
    "lost": (LOST, SCALE_UP, 0),
}


@pytest.mark.parametrize(("demand", "up", "desired"), FROM_ZERO.values(), ids=FROM_ZERO.keys())
def test_from_zero(demand, up, desired):
    assert play(autoscaling(up=up, minimum=0), 0, [demand]) == [desired]


demands = st.one_of(
    st.just(LOST),
    st.builds(Demand, st.floats(0, 1000), st.floats(0, 1000), st.just("Prometheus")),
)


@given(st.lists(demands, min_size=1, max_size=30), st.integers(0, 12), st.integers(0, 12))
def test_desired_stays_within_bounds(series, current, routable):
    history = play(autoscaling(up=SCALE_UP, minimum=2, maximum=9), current, series, 15.0, routable)
    assert all(2 <= desired <= 9 for desired in history)


@given(st.lists(st.just(LOST) | demands, max_size=19), st.integers(1, 10))
def test_nothing_scales_down_before_a_full_window_was_seen(series, current):
    history = [current, *play(autoscaling(up=SCALE_UP, down=SCALE_DOWN), current, series)]
    assert history == sorted(history)


@given(st.integers(1, 10), st.floats(0, 1000), st.floats(0, 1000))
def test_a_scale_down_leaves_a_seat_for_every_request(current, queue, running):
    decision, _ = evaluate(waiting(queue, running), current)
    fits = decision.desired * 4 >= queue + running
    assert decision.desired >= current or fits
