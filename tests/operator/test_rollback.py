"""Automatic rollback: when a revision has failed, what serves meanwhile, and how to try again."""

import pytest
from openinference_operator.facts import Facts
from openinference_operator.notes import notes_on
from openinference_operator.operations import Annotate
from openinference_operator.status import build_status


def begin_upgrade(world):
    """Bring a service to rest and change it; return the good groups and the bad revision."""
    world.settle()
    good = set(world.groups)
    world.change(engine={"maxSequences": 4})
    world.reconcile()
    return good, world.plan().course.revision


def crash(world, groups, restarts=3):
    world.broken = set(groups)
    world.restarts = restarts


def act(world, rounds=10):
    for _ in range(rounds):
        world.everybody_acts()
        world.reconcile()


def conditions(world):
    status = build_status(Facts(world.parsed, world.observe(), world.plan(), None, world.now))
    return {entry["type"]: entry for entry in status["conditions"]}


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_crash_loop_is_rolled_back(make_world, replicas):
    world = make_world(replicas=replicas)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    world.settle()
    assert set(world.groups) == good == world.routable
    assert world.plan().course.revision == bad != world.plan().course.target


def test_a_few_crashes_are_not_a_failure(make_world):
    world = make_world(replicas=1)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good, restarts=2)
    act(world)
    assert world.plan().course.target == bad
    world.broken.clear()
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {bad}


def test_a_group_that_is_not_ready_in_time_is_rolled_back(make_world):
    world = make_world(replicas=1, rollout={"progressDeadline": "5m"})
    good, bad = begin_upgrade(world)
    assert world.plan().look_again_at == world.now + 300
    world.now += 299
    assert world.plan().course.target == bad
    world.now += 1
    assert "was not ready within 300 s" in world.plan().course.failure
    world.broken = world.groups.keys() - good
    world.settle()
    assert set(world.groups) == good


def test_groups_that_were_updated_already_are_taken_back(make_world):
    """Two of three replicas are new when the third crashes: all go back, none is missed."""
    world = make_world(replicas=3)
    good, bad = begin_upgrade(world)
    while len([group for group in world.routable if world.revision_of(group) == bad]) < 2:
        world.everybody_acts()
        world.reconcile()
    crash(world, [max(world.groups.keys() - good - world.routable, default="none")])
    world.now += 2000
    for _ in range(30):
        if world.broken - world.groups.keys():
            crash(world, world.groups.keys() - world.routable)
        world.everybody_acts()
        world.reconcile()
        assert len(world.routable) >= 3 or world.plan().course.target == bad
    assert len(world.routable) == 3


def test_a_group_that_was_ready_once_is_never_late(make_world):
    """A rollout may last longer than the deadline; a blip of a new group is no failure then."""
    world = make_world(replicas=2, rollout={"progressDeadline": "5m"})
    good, bad = begin_upgrade(world)
    world.start_pods()
    world.reconcile()
    world.now += 10_000
    world.ready -= world.groups.keys() - good
    assert world.plan().course.failure == ""
    assert world.plan().course.target == bad


def test_a_router_that_is_away_fails_no_revision(make_world):
    world = make_world(replicas=1, rollout={"progressDeadline": "5m"})
    _, bad = begin_upgrade(world)
    world.start_pods()
    for router in world.routers:
        router.is_ready = False
    world.now += 10_000
    world.reconcile()
    assert world.plan().course.failure == ""
    assert world.plan().course.target == bad


def test_a_lost_node_fails_no_revision(make_world):
    world = make_world(replicas=1, rollout={"progressDeadline": "5m"})
    good, bad = begin_upgrade(world)
    world.lose_nodes(world.groups.keys() - good)
    world.now += 10_000
    assert world.plan().course.target == bad


def test_a_failed_revision_is_not_tried_again(make_world):
    world = make_world(replicas=1)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    world.settle()
    crash(world, [], restarts=0)
    world.now += 10_000
    world.settle()
    assert set(world.groups) == good
    assert "exited with 1 (3 restarts)" in world.observe().revisions[bad].failure


def test_another_spec_is_a_new_attempt(make_world):
    world = make_world(replicas=1)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    world.settle()
    world.change(engine={"maxSequences": 5})
    world.broken.clear()
    world.settle()
    assert world.plan().course.target == world.plan().course.revision != bad
    assert {world.revision_of(group) for group in world.groups} == {world.plan().course.revision}


def test_the_failed_spec_applied_again_after_another_is_a_new_attempt(make_world):
    world = make_world(replicas=1)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    world.settle()
    world.broken.clear()
    world.change(engine={})
    world.settle()
    world.change(engine={"maxSequences": 4})
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {bad}


def test_restarted_at_is_a_new_attempt(make_world):
    world = make_world(replicas=1)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    world.settle()
    world.broken.clear()
    world.service["metadata"]["annotations"] = {"openinference.dev/restartedAt": "now"}
    world.settle()
    assert world.plan().course.revision != bad
    assert {world.revision_of(group) for group in world.groups} == {world.plan().course.revision}


def test_the_status_does_not_report_success(make_world):
    world = make_world(replicas=1)
    good, bad = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    world.settle()
    found = conditions(world)
    assert found["Available"]["status"] == "True"
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == (
        "False",
        "RolledBack",
    )
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "RolledBack")
    assert bad in found["Ready"]["message"]
    assert "exited with 1 (3 restarts)" in found["Ready"]["message"]
    assert "restartedAt" in found["Ready"]["message"]


def test_without_a_good_revision_the_attempts_go_on(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    crash(world, world.groups)
    act(world)
    assert len(world.groups) == 1
    found = conditions(world)
    assert found["Progressing"]["reason"] == "ProgressDeadlineExceeded"
    assert found["Ready"]["reason"] == "CrashLoop"
    world.broken.clear()
    world.settle()
    assert conditions(world)["Ready"]["status"] == "True"


def test_a_crash_after_the_rollout_is_no_rollback(make_world):
    world = make_world(replicas=2)
    begin_upgrade(world)
    world.settle()
    revision = world.plan().course.revision
    crash(world, sorted(world.groups)[:1], restarts=9)
    world.ready -= world.broken
    act(world)
    assert world.plan().course.target == revision
    assert len(world.groups) == 2


def test_a_rollback_is_told(make_world):
    world = make_world(replicas=1)
    good, _ = begin_upgrade(world)
    crash(world, world.groups.keys() - good)
    operations = world.plan().operations
    assert any(isinstance(operation, Annotate) for operation in operations)
    assert "RolledBack" in [note.reason for note in notes_on(operations)]
