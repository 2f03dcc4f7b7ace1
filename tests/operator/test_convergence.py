"""Properties of the planner in the model cluster, whatever happens in whatever order.

Every history ends in calm. Then the operator must come to rest in the one right state. While it
is stormy, no single operation may break the bounds of the rollout.
"""

from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openinference_operator import names
from openinference_operator.canary import Verdict
from openinference_operator.groups import group_state
from openinference_operator.operations import Annotate, Create, strides
from openinference_operator.rollout import Phase, bounds

CALM = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ENGINES = st.sampled_from([{}, {"maxSequences": 2}, {"maxSequences": 3}, {"image": "engine:2"}])
CANARY = {
    "strategy": "Canary",
    "canary": {
        "steps": [{"weight": 10, "pause": "30s"}, {"weight": 60, "pause": "30s"}],
        "golden": [{"prompt": "2+2?", "expect": "4"}],
    },
}
ROLLOUTS = st.sampled_from(
    [
        {"maxSurge": 1, "maxUnavailable": 0},
        {"maxSurge": 0, "maxUnavailable": 1},
        {"maxSurge": "50%", "maxUnavailable": "50%"},
        {"maxSurge": 3, "maxUnavailable": 2},
        {"maxSurge": 0, "maxUnavailable": "100%"},
        {"paused": True},
        CANARY,
        CANARY | {"maxSurge": 2, "maxUnavailable": 1},
        CANARY | {"paused": True},
    ]
)
VERDICTS = st.sampled_from([Verdict(), Verdict(missing="requests"), Verdict(failed="errors")])
EVENTS = st.one_of(
    st.tuples(st.just("reconcile"), st.one_of(st.none(), st.integers(0, 4))),
    st.tuples(st.just("start"), st.integers(0, 5)),
    st.tuples(st.just("break"), st.integers(0, 5)),
    st.tuples(st.just("crash"), st.integers(0, 5)),
    st.tuples(st.just("time passes"), st.sampled_from([60, 700, 2000])),
    st.tuples(st.just("stop being ready"), st.integers(0, 5)),
    st.tuples(st.just("kubelet restarts"), st.none()),
    st.tuples(st.just("lose node"), st.integers(0, 5)),
    st.tuples(st.just("end"), st.none()),
    st.tuples(st.just("routers read"), st.integers(0, 2)),
    st.tuples(st.just("routers flap"), st.integers(0, 1)),
    st.tuples(st.just("send"), st.none()),
    st.tuples(st.just("finish"), st.none()),
    st.tuples(st.just("engine"), ENGINES),
    st.tuples(st.just("rollout"), ROLLOUTS),
    st.tuples(st.just("verdict"), VERDICTS),
    st.tuples(st.just("golden"), st.sampled_from(["", "answered wrong"])),
    st.tuples(st.just("golden answers"), st.booleans()),
    st.tuples(st.just("replicas"), st.integers(0, 4)),
)
HISTORIES = st.lists(EVENTS, max_size=40)


def happen(world, event, argument):
    groups = sorted(world.groups)
    match event:
        case "reconcile":
            reconcile_within_bounds(world, crash_after=argument)
        case "start":
            world.start_pods(groups[argument : argument + 1])
        case "break":
            world.broken |= set(groups[argument : argument + 1])
            world.ready -= world.broken
        case "crash":
            world.restarts = argument
        case "time passes":
            world.now += argument
        case "stop being ready":
            world.ready -= set(groups[argument : argument + 1])
        case "kubelet restarts":
            world.started.clear()
            world.ready.clear()
        case "lose node":
            world.lose_nodes(groups[argument : argument + 1])
        case "end":
            world.end_pods()
        case "routers read":
            world.routers_read(world.routers[:argument])
        case "routers flap":
            world.routers[argument].is_ready = not world.routers[argument].is_ready
        case "send":
            world.send_requests()
        case "finish":
            world.finish_requests()
        case "engine":
            world.change(engine=argument)
        case "rollout":
            world.change(rollout=argument)
        case "verdict":
            world.verdict = argument
        case "golden":
            world.golden_failure = argument
        case "golden answers":
            world.answers_golden = argument
        case "replicas":
            world.change(replicas=argument)


def reconcile_within_bounds(world, crash_after):
    """Perform a plan operation by operation and check the two promises after each."""
    limits = bounds(world.parsed.rollout, world.replicas)
    for operation in world.plan().operations[:crash_after]:
        existing, routable = existing_groups(world), routable_groups(world)
        world.perform(operation)
        match operation:
            case Create({"kind": "StatefulSet"}):
                assert existing_groups(world) <= limits.replicas + limits.max_surge
            case Annotate(_, {names.ANNOTATION_DRAINING_SINCE: _}):
                assert routable_groups(world) >= min(routable, limits.floor)
            case _:
                assert existing_groups(world) <= existing


def states(world):
    timeout = world.parsed.rollout.drain_timeout_seconds
    return [group_state(group, timeout, world.now) for group in world.observe().groups]


def existing_groups(world):
    return sum(state.phase is not Phase.LOST for state in states(world))


def routable_groups(world):
    return sum(state.phase is Phase.ROUTABLE for state in states(world))


def become_calm(world):
    """Everything works again: routers and nodes are up, and what was broken can start."""
    for router in world.routers:
        router.is_ready = True
    world.broken.clear()
    world.lost.clear()
    world.verdict, world.golden_failure, world.answers_golden = Verdict(), "", True
    world.change(rollout=world.service["spec"]["rollout"] | {"paused": False})


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
