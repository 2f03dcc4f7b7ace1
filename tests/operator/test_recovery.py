"""Pods that crash in place: made anew within a budget, and then left to the kubelet, in words."""

import pytest
from openinference_operator.facts import Facts
from openinference_operator.status import build_status


def crash(world, restarts=5):
    """Let every group crash in place so many times, after a rollout that had succeeded."""
    world.broken = set(world.groups)
    world.ready -= world.broken
    world.restarts = restarts


def groups_healthy(world):
    status = build_status(Facts(world.parsed, world.observe(), world.plan(), None, world.now))
    return next(entry for entry in status["conditions"] if entry["type"] == "GroupsHealthy")


@pytest.fixture
def world(make_world):
    serving = make_world(replicas=1, failurePolicy={"restartBudget": {"count": 2, "window": "10m"}})
    serving.settle()
    return serving


def test_a_few_crashes_are_left_to_the_kubelet(world):
    crash(world, restarts=4)
    world.reconcile()
    assert world.recreated == []


def test_a_pod_that_crashes_in_vain_is_made_anew(world):
    crash(world)
    world.reconcile()
    assert len(world.recreated) == 1
    world.settle()
    assert len(world.routable) == 1
    assert len(world.recreated) == 1


def test_the_budget_is_not_exceeded(world):
    for _ in range(5):
        crash(world)
        world.reconcile()
        world.now += 60
    assert len(world.recreated) == 2
    crash(world)
    assert groups_healthy(world)["reason"] == "RestartBudgetSpent"
    assert "made anew 2 times within 600 s" in groups_healthy(world)["message"]


def test_the_budget_returns_with_time(world):
    for _ in range(3):
        crash(world)
        world.reconcile()
    assert len(world.recreated) == 2
    assert world.plan().look_again_at == world.now + 600
    world.now += 600
    world.reconcile()
    assert len(world.recreated) == 3


def test_a_budget_of_zero_never_makes_a_pod_anew(make_world):
    world = make_world(replicas=1, failurePolicy={"restartBudget": {"count": 0}})
    world.settle()
    crash(world)
    world.reconcile()
    assert world.recreated == []


def test_a_crash_of_the_operator_spends_the_budget_once(world):
    """The note is written first: the pod may be spared, but never counted too little."""
    crash(world)
    world.reconcile(crash_after=1)
    assert world.recreated == []
    world.reconcile()
    world.reconcile()
    assert len(world.recreated) == 1


def test_a_rollout_that_crashes_fails_instead(make_world):
    world = make_world(replicas=1)
    world.settle()
    good = set(world.groups)
    world.change(engine={"maxSequences": 4})
    world.reconcile()
    world.broken = world.groups.keys() - good
    world.restarts = 9
    world.settle()
    assert world.recreated == []
    assert set(world.groups) == good


@pytest.fixture
def pair(make_world):
    """One replica of two pods."""
    whole = make_world(replicas=1, parallelism={"pipeline": 2})
    whole.settle()
    return whole


def test_a_group_is_ready_only_when_all_its_pods_are(pair):
    [group] = pair.groups
    pair.unready = {f"{group}-1"}
    status = build_status(Facts(pair.parsed, pair.observe(), pair.plan(), None, pair.now))
    assert (status["readyReplicas"], status["routableReplicas"]) == (0, 0)
    assert status["ranksSummary"] == "1/2"
    assert groups_healthy(pair)["reason"] == "RankLost"
    assert f"1 of 2 pods of {group} are ready: {group}-1 is not" in groups_healthy(pair)["message"]


def test_a_group_that_crashes_in_vain_is_made_anew_as_a_whole(pair):
    [group] = pair.groups
    crash(pair)
    pair.reconcile()
    assert pair.recreated == [f"{group}-0", f"{group}-1"]
    pair.settle()
    assert pair.routable == {group}
