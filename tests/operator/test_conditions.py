"""Conditions: what is said about each state of affairs, and the number or object behind it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from openinference_operator import observe as observe_module
from openinference_operator.conditions import refused
from openinference_operator.facts import Facts
from openinference_operator.pods import read_pod
from openinference_operator.reasons import Reason
from openinference_operator.scaling import Decision, Demand, Input, Lost, queue_reading
from openinference_operator.spec import parse
from openinference_operator.status import build_refusal, build_status, recorded_desired


def status_of(world, decision=None):
    return build_status(Facts(world.parsed, world.observe(), world.plan(), decision, world.now))


def condition(status, kind):
    entry = next(entry for entry in status["conditions"] if entry["type"] == kind)
    return entry["status"], entry["reason"], entry["message"]


def test_a_serving_service_is_ready(make_world):
    world = make_world(replicas=2)
    world.settle()
    status = status_of(world)
    assert condition(status, "Ready") == ("True", "Serving", "2 of 2 replicas are routable")
    assert {entry["status"] for entry in status["conditions"]} == {"True"}
    assert status["replicasSummary"] == "2/2"
    assert status["currentRevision"] == status["updateRevision"]
    assert status["url"] == "http://demo.team-a.svc"
    assert status["selector"] == "openinference.dev/service=demo,app.kubernetes.io/component=engine"


def test_a_starting_service_says_how_far_it_is(make_world):
    world = make_world(replicas=2)
    world.reconcile()
    status = status_of(world)
    assert condition(status, "Ready")[:2] == ("False", "Starting")
    assert "0 of 2 replicas are routable" in condition(status, "Ready")[2]
    assert condition(status, "Available")[:2] == ("False", "NoRoutableReplica")
    assert "currentRevision" not in status


def test_a_rollout_keeps_the_service_available_but_not_ready(make_world):
    world = make_world(replicas=2)
    world.settle()
    world.change(engine={"maxSequences": 4})
    world.reconcile()
    status = status_of(world)
    assert condition(status, "Available")[0] == "True"
    assert condition(status, "Ready")[:2] == ("False", "RollingOut")
    assert "2 of older revisions left" in condition(status, "Progressing")[2]
    assert status["currentRevision"] != status["updateRevision"]


def test_a_service_is_ready_and_its_revision_current_in_one_write(make_world):
    world = make_world(replicas=1)
    while condition(status_of(world), "Ready")[0] != "True":
        world.reconcile()
        world.everybody_acts()
    status = status_of(world)
    assert status["currentRevision"] == status["updateRevision"]


def test_no_group_that_answers_means_not_ready_whatever_the_past(make_world):
    world = make_world(replicas=1)
    world.settle()
    world.ready.clear()
    status = status_of(world)
    assert condition(status, "Available")[:2] == ("False", "NoRoutableReplica")
    assert condition(status, "Ready")[0] == "False"


def test_without_a_ready_router_nobody_is_reached(make_world):
    world = make_world(replicas=1)
    world.settle()
    for router in world.routers:
        router.is_ready = False
    status = status_of(world)
    assert condition(status, "RouterReady")[:2] == ("False", "RouterNotReady")
    assert condition(status, "Ready")[:2] == ("False", "RouterNotReady")
    assert "none of 2 router pods" in condition(status, "Ready")[2]


def test_suspended_is_a_reason(make_world):
    world = make_world(replicas=1, suspend=True)
    world.desired = 0
    assert condition(status_of(world), "Ready")[:2] == ("False", "Suspended")


def test_a_crash_loop_names_pod_code_and_last_words(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    world.broken = set(world.groups)
    status = status_of(world)
    kind, reason, message = condition(status, "Ready")
    assert (kind, reason) == ("False", "CrashLoop")
    assert "-0 exited with 1" in message


TROUBLES = {
    "no GPU left": (
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
            ]
        },
        "InsufficientGPU",
        "3 Insufficient nvidia.com/gpu",
    ),
    "no memory left": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "2 Insufficient memory."}
            ]
        },
        "InsufficientResources",
        "2 Insufficient memory",
    ),
    "no node matches": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "3 didn't match selector"}
            ]
        },
        "Unschedulable",
        "3 didn't match selector",
    ),
    "the image is missing": (
        {
            "containerStatuses": [
                {
                    "image": "engine:404",
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
                }
            ]
        },
        "ImagePullFailed",
        "engine:404: not found",
    ),
    "a Secret is missing": (
        {
            "containerStatuses": [
                {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no x"}}}
            ]
        },
        "ContainerConfigError",
        "no x",
    ),
    "the model is missing": (
        {
            "containerStatuses": [
                {
                    "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {
                        "terminated": {
                            "exitCode": 2,
                            "message": "starting\nfile:///m.gguf does not exist",
                        }
                    },
                }
            ]
        },
        "CrashLoop",
        "exited with 2 (3 restarts): file:///m.gguf does not exist",
    ),
    "out of memory": (
        {
            "containerStatuses": [
                {
                    "restartCount": 1,
                    "state": {"running": {}},
                    "started": False,
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }
            ]
        },
        "OutOfMemory",
        "needs more memory than what node node-a has (1 restarts)",
    ),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "node was low on memory"},
        "Evicted",
        "was evicted from node node-a: node was low on memory",
    ),
    "drained": (
        {
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting",
                }
            ]
        },
        "Evicted",
        "Eviction API: evicting",
    ),
    "ended as a whole": (
        {"phase": "Failed", "message": "the node was shut down"},
        "PodFailed",
        "the node was shut down",
    ),
}


@pytest.mark.parametrize(("status", "reason", "part"), TROUBLES.values(), ids=TROUBLES.keys())
def test_trouble_of_a_pod_is_named_with_what_is_behind_it(raw_pod, status, reason, part):
    trouble = read_pod(raw_pod("demo-1a2b3c4d-0", is_ready=False, **status)).trouble
    assert trouble.reason == reason
    assert part in trouble.message
    assert "demo-1a2b3c4d-0-0" in trouble.message


def test_out_of_memory_names_the_limit(raw_pod):
    ended = {"restartCount": 1, "lastState": {"terminated": {"reason": "OOMKilled"}}}
    raw = raw_pod("demo-1a2b3c4d-0", is_ready=False, containerStatuses=[ended])
    raw["spec"]["containers"] = [{"resources": {"limits": {"memory": "2Gi"}}}]
    assert "more memory than its limit of 2Gi" in read_pod(raw).trouble.message


def test_a_pod_that_recovered_is_not_in_trouble(raw_pod):
    container = {
        "started": True,
        "restartCount": 4,
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 1}},
    }
    assert read_pod(raw_pod("demo-1-0", containerStatuses=[container])).trouble is None


def test_times_change_only_with_the_status(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    world.service["status"] = before = status_of(world)
    world.now += 60
    assert status_of(world) == before
    world.settle()
    after = {entry["type"]: entry for entry in status_of(world)["conditions"]}
    times = {entry["type"]: entry["lastTransitionTime"] for entry in before["conditions"]}
    assert after["Ready"]["lastTransitionTime"] > times["Ready"]
    assert after["Scheduled"]["lastTransitionTime"] == times["Scheduled"]


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


@pytest.mark.parametrize(
    ("created_at", "name", "taken"),
    [
        ("2025-01-01T00:00:00Z", "demo", True),
        ("2027-01-01T00:00:00Z", "demo", False),
        ("2025-01-01T00:00:00Z", "another", False),
    ],
    ids=["older", "younger", "another name"],
)
def test_a_model_name_belongs_to_the_older_service(
    make_world, raw_service, created_at, name, taken
):
    world = make_world(replicas=1)
    world.settle()
    other = raw_service(name="other", model={"uri": "package://models/t.gguf", "name": name})
    other["metadata"]["creationTimestamp"] = created_at
    world.siblings = [other]
    status = status_of(world)
    assert (condition(status, "RouterReady")[1] == "ModelNameTaken") is taken
    assert condition(status, "Ready")[0] == "True"


@pytest.mark.parametrize(
    "spec",
    [
        None,
        [],
        {"model": "demo"},
        {"model": {"name": ["demo"]}},
        {"model": {"name": "demo", "uri": "ftp://x"}},
    ],
)
def test_an_older_service_that_cannot_be_served_takes_no_name(make_world, raw_service, spec):
    world = make_world(replicas=1)
    other = raw_service(name="other") | {"spec": spec}
    other["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    world.siblings = [other]
    assert world.observe().name_taken_by == ""


def test_older_services_with_other_names_are_not_parsed(make_world, raw_service, monkeypatch):
    world = make_world(replicas=1)
    other = raw_service(name="other")
    other["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    world.siblings = [other]
    parsed = []
    monkeypatch.setattr(observe_module, "parse", parsed.append)
    assert world.observe().name_taken_by == ""
    assert parsed == []


PAGE = Path(__file__).parents[2] / "docs" / "conditions.md"


def test_every_reason_is_documented_with_a_remedy():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(reason for reason, _, _ in rows) == sorted(Reason)
    assert all(meaning.strip() and remedy.strip() for _, meaning, remedy in rows)


def test_a_refusal_keeps_what_was_said_before(make_world):
    world = make_world(replicas=1)
    world.settle()
    before = status_of(world)
    after = build_refusal(
        refused(Reason.INVALID_SPEC, "spec.x: is bad"), before, before, 7, world.now
    )
    assert condition(after, "Ready") == ("False", "InvalidSpec", "spec.x: is bad")
    assert condition(after, "Progressing")[:2] == ("False", "InvalidSpec")
    assert condition(after, "Available") == condition(before, "Available")
    assert after["observedGeneration"] == 7
    assert after["routableReplicas"] == 1
