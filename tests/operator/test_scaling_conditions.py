"""Conditions: what is said of scaling, and who decides it."""

from dataclasses import replace

import pytest
from openinference_operator.reasons import Reason
from openinference_operator.scaling import Decision, Demand, Input, Lost, queue_reading
from openinference_operator.spec import parse
from openinference_operator.status import recorded_desired

from tests.operator.statuses import condition, status_of

AUTOSCALING = {
    "minReplicas": 1,
    "maxReplicas": 3,
    "metrics": [{"type": "Queue", "target": {"averageValue": "4"}}],
}


def decision(service, demand, desired=1, proposal=1, **how):
    metric = parse(service).autoscaling.metrics[0]
    is_lost = isinstance(demand, Lost)
    reading = demand if is_lost else queue_reading(demand)
    entry = Input(metric, reading, None if is_lost else proposal)
    return Decision(desired, "Holding", "the numbers", (entry,), **how)


SCALING = {
    "lost": (Lost("x"), {}, "ScalingActive", "False", "MetricsUnavailable"),
    "fallback": (Demand(1, 1, "Routers"), {}, "ScalingActive", "True", "FallbackDemand"),
    "valid": (Demand(1, 1, "Prometheus"), {}, "ScalingActive", "True", "ValidMetricFound"),
    "limited": (
        Demand(1, 1, "Prometheus"),
        {"limited_by": Reason.TOO_MANY_REPLICAS},
        "ScalingLimited",
        "True",
        "TooManyReplicas",
    ),
    "stabilized": (
        Demand(1, 1, "Prometheus"),
        {"is_stabilized": True},
        "AbleToScale",
        "True",
        "Stabilized",
    ),
}


@pytest.mark.parametrize(
    ("demand", "how", "kind", "truth", "reason"), SCALING.values(), ids=SCALING.keys()
)
def test_scaling_conditions(make_world, demand, how, kind, truth, reason):
    world = make_world(autoscaling=AUTOSCALING)
    status = status_of(world, decision(world.service, demand, **how))
    assert condition(status, kind)[:2] == (truth, reason)


def test_a_metric_that_is_lost_beside_others_is_said(make_world):
    world = make_world(autoscaling=AUTOSCALING)
    known = decision(world.service, Demand(1, 1, "Prometheus"))
    lost = decision(world.service, Lost("x")).inputs
    status = status_of(world, replace(known, inputs=known.inputs + lost))
    assert condition(status, "ScalingActive")[:2] == ("True", "SomeMetricsUnavailable")


def test_the_scaler_leaves_a_record(make_world):
    world = make_world(autoscaling=AUTOSCALING)
    world.service["status"] = {"scaling": {"desired": 1}}
    world.desired = 2
    made = decision(world.service, Demand(8, 3, "Prometheus"), desired=2, proposal=2)
    scaling = status_of(world, made)["scaling"]
    assert scaling["desired"] == 2
    assert scaling["lastScaleTime"] == "2026-01-01T00:00:00Z"
    assert scaling["inputs"][0]["proposal"] == 2
    assert scaling["inputs"][0]["source"] == "Prometheus"
    assert "8 waiting, 3 running" in scaling["inputs"][0]["value"]


@pytest.mark.parametrize(
    ("spec", "status", "desired"),
    [
        ({"replicas": 3}, {}, 3),
        ({"replicas": 3}, {"scaling": {"desired": 1}}, 3),
        ({"replicas": 3, "suspend": True}, {}, 0),
        ({"replicas": 9, "autoscaling": AUTOSCALING}, {}, 3),
        ({"autoscaling": AUTOSCALING}, {"scaling": {"desired": 2}}, 2),
        ({"autoscaling": AUTOSCALING}, {"scaling": {"desired": 9}}, 3),
    ],
)
def test_who_decides_the_number_of_replicas(raw_service, spec, status, desired):
    assert recorded_desired(parse(raw_service(**spec)), status) == desired


def test_scaled_to_zero_is_no_failure(make_world):
    world = make_world(autoscaling=AUTOSCALING | {"minReplicas": 0})
    world.desired = 0
    world.settle()
    status = status_of(world, decision(world.service, Demand(0, 0, "Prometheus"), 0, 0))
    assert condition(status, "Ready")[:2] == ("True", "ScaledToZero")
    assert condition(status, "Available")[:2] == ("False", "ScaledToZero")
    assert status["replicasSummary"] == "0/0"


def test_what_the_autoscaler_adds_is_not_missed_while_it_starts(make_world):
    world = make_world(autoscaling=AUTOSCALING)
    world.settle()
    world.desired = 3
    world.reconcile()
    assert condition(status_of(world), "Ready")[0] == "True"
