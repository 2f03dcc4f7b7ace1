"""Properties of the planner in the model cluster, whatever happens in whatever order.

Every history ends in calm. Then the operator must come to rest in the one right state. While it
is stormy, no single operation may break the bounds of the rollout.
"""

from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openinference_operator.operations import strides

from tests.operator.histories import (
    HISTORIES,
    ROLLOUTS,
    become_calm,
    happen,
    reconcile_within_bounds,
)

CALM = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@CALM
@given(history=HISTORIES, replicas=st.integers(0, 3), rollout=ROLLOUTS)
def test_every_history_ends_in_the_wanted_state(make_world, history, replicas, rollout):
    world = make_world(replicas=replicas, rollout=rollout)
    for event, argument in history:
        happen(world, event, argument)
    become_calm(world)
    world.settle()
    target = world.plan().course.target
    assert [world.revision_of(group) for group in world.groups] == [target] * world.replicas
    assert world.routable == world.groups.keys()
    assert not world.replicas or world.observe().current_revision == target


@CALM
@given(history=HISTORIES)
def test_a_plan_that_is_made_twice_is_the_same(make_world, history):
    world = make_world(replicas=2)
    for event, argument in history:
        happen(world, event, argument)
    assert world.plan() == world.plan()


@pytest.mark.parametrize("crash_after", range(12))
def test_a_crash_after_any_operation_of_any_plan_changes_nothing_in_the_end(
    make_world, crash_after
):
    """Each plan of an upgrade dies after so many operations, and the next operator takes over."""
    world = make_world(replicas=2)
    world.settle()
    world.change(engine={"maxSequences": 4})
    for _ in range(60):
        reconcile_within_bounds(world, crash_after)
        world.everybody_acts()
    world.settle()
    assert len(world.groups) == 2
    assert {world.revision_of(group) for group in world.groups} == {world.plan().course.revision}


@pytest.mark.parametrize("crash_after", range(1, 8))
def test_operations_that_are_done_at_the_same_time_may_be_done_in_any_order(
    make_world, crash_after
):
    """A crash leaves any part of what is done at once; here it is the last ones that get done."""
    world = make_world(replicas=2)
    for change in ({}, {"engine": {"maxSequences": 4}}):
        world.change(**change)
        for _ in range(30):
            done = chain.from_iterable(map(reversed, strides(world.plan().operations)))
            for operation in list(done)[:crash_after]:
                world.perform(operation)
            world.everybody_acts()
        world.settle()
        assert len(world.groups) == 2
        assert {world.revision_of(group) for group in world.groups} == {
            world.plan().course.revision
        }


def test_a_lost_node_does_not_block_its_replacement(make_world):
    """The silent pod never ends; its group is replaced under a fresh number."""
    world = make_world(replicas=2)
    world.settle()
    gone = sorted(world.groups)[0]
    world.lose_nodes([gone])
    world.settle()
    assert len(world.routable) == 2
    assert gone in world.groups


def test_a_lost_node_does_not_hold_a_rollout_open(make_world):
    world = make_world(replicas=2)
    world.settle()
    world.lose_nodes(sorted(world.groups)[:1])
    world.change(engine={"maxSequences": 4})
    world.settle()
    assert world.observe().current_revision == world.plan().course.revision


def test_a_kubelet_that_restarts_takes_no_group_away(make_world):
    """For a moment its containers count as not started, although requests run in them."""
    world = make_world(replicas=2)
    world.settle()
    serving = set(world.groups)
    world.send_requests()
    world.change(engine={"maxSequences": 4})
    world.started.clear()
    world.ready.clear()
    for _ in range(3):
        world.reconcile()
        world.routers_read()
    assert not world.draining & serving


def test_rest_needs_no_operation(make_world):
    world = make_world(replicas=2)
    world.settle()
    assert world.plan().operations == ()


def test_routing_generation_grows_only_with_its_content(make_world):
    world = make_world(replicas=1)
    world.settle()
    before = world.routers[0].routing["generation"]
    world.change(autoscaling=None, rollout={"maxSurge": 2})
    world.settle()
    assert world.routers[0].routing["generation"] == before
    world.change(router={"queue": {"maxRequests": 7}})
    world.settle()
    assert world.routers[0].routing["generation"] == before + 1


def test_an_edited_child_is_repaired(make_world):
    world = make_world(replicas=1)
    world.settle()
    world.objects["Service", "demo"]["spec"]["ports"] = []
    world.settle()
    assert world.objects["Service", "demo"]["spec"]["ports"][0]["targetPort"] == "http"


def test_a_deleted_child_comes_back(make_world):
    world = make_world(replicas=1)
    world.settle()
    for key in [("Service", "demo"), ("ConfigMap", "demo-routing"), ("Service", "demo-groups")]:
        del world.objects[key]
    world.settle()
    assert ("ConfigMap", "demo-routing") in world.objects


def test_a_new_default_image_rolls_nothing(make_world):
    world = make_world(replicas=2)
    world.settle()
    before = set(world.groups)
    world.image = "engine:2"
    world.settle()
    assert set(world.groups) == before


def test_only_the_newest_unused_revisions_are_kept(make_world):
    world = make_world(replicas=1)
    for seats in range(1, 16):
        world.change(engine={"maxSequences": seats})
        world.settle()
    kept = [name for kind, name in world.objects if kind == "ControllerRevision"]
    assert len(kept) == 11
