"""Conditions: what is said about each state of affairs, and the number or object behind it."""

import re
from pathlib import Path

import pytest
from openinference_operator import observe as observe_module
from openinference_operator.conditions import refused
from openinference_operator.reasons import Reason
from openinference_operator.status import build_refusal

from tests.operator.statuses import condition, status_of


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


def test_a_replica_that_no_router_admits_is_named(make_world):
    """As where a policy keeps routers from it: all was Ready, and nothing said what was missing."""
    world = make_world(replicas=1)
    world.reconcile()
    world.start_pods()
    world.reconcile()
    [group] = world.groups
    assert condition(status_of(world), "Ready")[2].endswith("0 of 1 replicas are routable, 1 exist")
    assert world.plan().look_again_at == world.now + 10
    world.now += 10
    assert condition(status_of(world), "Ready")[2].endswith(
        f", 1 exist; {group} is Ready, and router-0, router-1 do not reach it (see their logs)"
    )
    assert world.plan().look_again_at is None


def test_a_replica_with_golden_prompts_to_pass_is_missed_by_nobody(make_world):
    canary = {"steps": [{"weight": 50, "pause": "1m"}], "golden": [{"prompt": "a", "expect": "b"}]}
    world = make_world(replicas=2, rollout={"strategy": "Canary", "canary": canary})
    world.settle()
    world.change(engine={"maxSequences": 4})
    world.answers_golden = False
    for _ in range(5):
        world.reconcile()
        world.everybody_acts()
    assert "has golden prompts to answer first" in condition(status_of(world), "Progressing")[2]
    [unproved] = world.plan().course.unproved
    assert world.observe().routers.not_admitting(unproved) == ()


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
