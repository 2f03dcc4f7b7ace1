"""What the autoscaler makes of metrics: each kind alone, then several, and some of them lost."""

from dataclasses import replace
from decimal import Decimal

import pytest
from openinference_operator.pacing import Memory
from openinference_operator.scaling import Capacity, Reading, decide
from openinference_operator.scaling_spec import (
    Average,
    Latency,
    Value,
)

from tests.operator.test_scaling import LOST, autoscaling, waiting

KV = Average("KVCache", Decimal("0.8"))
BACKLOG = Average("BacklogSeconds", Decimal(2))
CUSTOM = Average("Prometheus", Decimal(10), "sum(tickets)")
SLOW = Latency(Decimal(2), None)
WHOLE = Value("tickets", Decimal(10))
METRICS = {
    # name: (metric, value, replicas, routable) -> proposal
    "full caches ask for their share": (KV, 3.0, 3, 3, 4),
    "caches at their target hold": (KV, 2.4, 3, 3, 3),
    "empty caches let go": (KV, 0.5, 3, 3, 1),
    "a full cache holds what starts": (KV, 1.0, 3, 1, 3),
    "a backlog asks for its share": (BACKLOG, 9.0, 2, 2, 5),
    "a custom sum": (CUSTOM, 35.0, 2, 2, 4),
    "a slow service grows": (SLOW, 1.5, 4, 4, 6),
    "a very slow one at most doubles": (SLOW, 50.0, 4, 4, 8),
    "replicas that start are not asked for twice": (SLOW, 2.0, 8, 4, 8),
    "a fast service shrinks": (SLOW, 0.4, 4, 4, 2),
    "but not while replicas start": (SLOW, 0.4, 4, 3, 4),
    "a latency within the tolerance holds": (SLOW, 1.05, 4, 4, 4),
    "a value of the whole is no latency": (WHOLE, 50.0, 2, 2, 10),
    "a value below its target": (WHOLE, 2.0, 4, 4, 1),
}


@pytest.mark.parametrize(
    ("metric", "value", "current", "routable", "proposal"), METRICS.values(), ids=METRICS.keys()
)
def test_each_kind_of_metric(metric, value, current, routable, proposal):
    decision, _ = evaluate_all([metric], [Reading(value, "seen")], current, routable)
    assert decision.inputs[0].proposal == proposal


def evaluate_all(metrics, readings, current, routable=None, demand=None):
    capacity = Capacity(current, current if routable is None else routable, 4)
    scaler = replace(autoscaling(), metrics=tuple(metrics))
    return decide(scaler, readings, demand or waiting(0), capacity, Memory(()), 1000.0)


def test_the_largest_proposal_wins():
    readings = [Reading(0, ""), Reading(9.0, ""), Reading(0.1, "")]
    decision, _ = evaluate_all([KV, BACKLOG, SLOW], readings, 3)
    assert [entry.proposal for entry in decision.inputs] == [0, 5, 1]
    assert decision.desired == 5


def test_one_lost_metric_holds_against_those_that_ask_for_less():
    decision, _ = evaluate_all([KV, SLOW], [Reading(0, ""), LOST], 3)
    assert (decision.desired, decision.is_partly_lost, decision.is_active) == (3, True, True)


def test_one_lost_metric_does_not_stop_one_that_asks_for_more():
    decision, _ = evaluate_all([KV, SLOW], [Reading(4.0, ""), LOST], 3)
    assert decision.desired == 5


def test_nothing_shrinks_while_nobody_knows_what_runs():
    decision, _ = evaluate_all([WHOLE], [Reading(1, "")], 3, demand=LOST)
    assert decision.desired == 3


def test_no_metric_takes_a_seat_from_a_request():
    decision, _ = evaluate_all([WHOLE], [Reading(1, "")], 3, demand=waiting(0, running=9))
    assert decision.desired == 3


def test_a_request_at_zero_starts_a_replica_whatever_is_scaled_by():
    scaler = replace(autoscaling(minimum=0), metrics=(SLOW,))
    decision, _ = decide(scaler, [LOST], waiting(1), Capacity(0, 0, 4), Memory(()), 1000.0)
    assert decision.desired == 1
