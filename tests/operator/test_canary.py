"""Canaries: tables of single transitions, then whole ways in the model cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_operator.canary import Place, Verdict, group_weights, next_stage
from openinference_operator.rollout import Split
from openinference_operator.rollout_spec import CanaryStep

from tests.operator.canaries import CANARY, act, begin, conditions, shares

STEPS = (CanaryStep(10, 60), CanaryStep(50, 120))
CONTENT, MISSING = Verdict(), Verdict(missing="requests")
TRANSITIONS = {
    # name: (place, routable fresh groups, verdict) at 1000 s -> (place, split, weight)
    "begins without requests": (Place(), 0, CONTENT, (Place(), Split(1, 4), 0)),
    "is reached by its groups": (Place(), 1, CONTENT, (Place(0, 1000), Split(1, 4), 10)),
    "pauses": (Place(0, 950), 1, CONTENT, (Place(0, 950), Split(1, 4), 10)),
    "goes on after its pause": (Place(0, 940), 1, CONTENT, (Place(1), Split(2, 2), 10)),
    "waits for what is missing": (Place(0, 0), 1, MISSING, (Place(0, 0), Split(1, 4), 10)),
    "keeps its share till the next": (Place(1), 1, CONTENT, (Place(1), Split(2, 2), 10)),
    "takes the next share": (Place(1), 2, CONTENT, (Place(1, 1000), Split(2, 2), 50)),
    "ends": (Place(1, 0), 2, CONTENT, (Place(2), Split(4, 0), 100)),
    "stays ended": (Place(2), 4, MISSING, (Place(2), Split(4, 0), 100)),
    "is over when steps were taken away": (Place(7), 1, CONTENT, (Place(7), Split(4, 0), 100)),
}


@pytest.mark.parametrize(
    ("place", "routable", "verdict", "expected"), TRANSITIONS.values(), ids=TRANSITIONS.keys()
)
def test_a_canary(place, routable, verdict, expected):
    stage = next_stage(STEPS, place, 4, routable, verdict, 1000)
    assert (stage.place, stage.split, stage.weight) == expected


@pytest.mark.parametrize("place", [Place(), Place(3), Place(1, 1767225600.0)])
def test_a_place_is_kept_as_text(place):
    assert Place.from_text(place.to_text()) == place


@given(st.integers(1, 99), st.integers(0, 1000))
def test_a_surge_of_one_makes_room_for_every_split(weight, replicas):
    split = next_stage((CanaryStep(weight, 1),), Place(), replicas, 0, CONTENT, 0).split
    assert split.fresh + split.old <= replicas + 1
    assert split.fresh * 100 >= replicas * weight
    assert split.old * 100 >= replicas * (100 - weight)


@given(st.integers(1, 99), st.integers(1, 50))
def test_all_fresh_groups_together_get_their_share(weight, replicas):
    split = next_stage((CanaryStep(weight, 1),), Place(), replicas, 0, CONTENT, 0).split
    fresh, old = group_weights(weight, split.fresh, split.old)
    share = fresh * split.fresh / (fresh * split.fresh + old * split.old)
    assert 0 < fresh < 100
    assert 0 < old < 100
    assert share * 100 == pytest.approx(weight, abs=1)


@pytest.mark.parametrize(("weight", "expected"), [(0, (0, 99)), (100, (99, 0))])
def test_all_or_nothing(weight, expected):
    assert group_weights(weight, 1, 1) == expected


def test_a_canary_goes_step_by_step(make_world):
    world, good, new = begin(make_world)
    act(world)
    assert shares(world) == {good: 75, new: 25}
    world.now += 60
    act(world)
    assert shares(world) == {good: 50, new: 50}
    world.now += 120
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {new}
    assert len(world.routable) == 4


def trace(world, rounds=80):
    """Everybody acts and time passes; note every step that does something, and the new share."""
    steps = []
    for _ in range(rounds):
        plan = world.reconcile()
        step, stage = plan.course.step, plan.course.stage
        if step.create or step.drain or step.delete:
            weight = 100 if stage is None else stage.weight
            steps.append((step.create, len(step.drain), len(step.delete), weight))
        world.everybody_acts()
        if not plan.operations and stage is not None and stage.ends_at is not None:
            world.now = max(world.now, stage.ends_at)
    return steps


def grow(weight):
    """A fresh group more; the share stays what it was."""
    return (1, 0, 0, weight)


def shrink(weight):
    """An old group less, once the share was taken."""
    return [(0, 1, 0, weight), (0, 0, 1, weight)]


SEQUENCES = {
    # name: (replicas, surge, weights of the steps) -> (created, drained, deleted, new share)
    "a quarter, a half, all": (
        *(4, 1, (25, 50)),
        [grow(0), *shrink(25), grow(25), *shrink(50), *2 * [grow(100), *shrink(100)]],
    ),
    "the rest in one go, with a larger surge": (
        *(4, 2, (25, 50)),
        [
            *(grow(0), *shrink(25), grow(25), *shrink(50)),
            *((2, 0, 0, 100), (0, 2, 0, 100), (0, 0, 2, 100)),
        ],
    ),
    "one replica beside one": (1, 1, (10,), [grow(0), *shrink(100)]),
    "one of three for less than its part": (
        *(3, 1, (10,)),
        [grow(0), *shrink(100), *2 * [grow(100), *shrink(100)]],
    ),
    "several groups for a step, one at a time": (
        *(6, 1, (50,)),
        [*2 * [grow(0), *shrink(0)], grow(0), *shrink(50), *3 * [grow(100), *shrink(100)]],
    ),
}


@pytest.mark.parametrize(
    ("replicas", "surge", "weights", "expected"), SEQUENCES.values(), ids=SEQUENCES.keys()
)
def test_the_exact_steps_of_a_canary(make_world, replicas, surge, weights, expected):
    steps = [{"weight": weight, "pause": "1m"} for weight in weights]
    rollout = {"strategy": "Canary", "maxSurge": surge, "canary": {"steps": steps}}
    world, _, new = begin(make_world, replicas, **rollout)
    assert trace(world) == expected
    assert {world.revision_of(group) for group in world.routable} == {new}


def test_a_canary_of_one_replica_runs_beside_it(make_world):
    world, good, new = begin(make_world, replicas=1)
    act(world)
    assert shares(world) == {good: 75, new: 25}
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {new}


def test_no_request_reaches_a_canary_before_all_its_groups_are_there(make_world):
    world, good, _ = begin(make_world)
    world.reconcile()
    world.everybody_acts()
    world.routers_read()
    assert set(shares(world)) == {good}


@pytest.mark.parametrize("replicas", [1, 4])
def test_a_failed_analysis_is_rolled_back(make_world, replicas):
    world, good, new = begin(make_world, replicas=replicas)
    act(world)
    world.verdict = Verdict(failed="ErrorRate of revision x is 0.2, above max = 0.01")
    world.reconcile()
    world.routers_read()
    assert shares(world)[good] == 100
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {good}
    assert "ErrorRate" in world.plan().course.failure
    world.verdict = Verdict()
    world.settle()
    assert world.plan().course.target == good != new


def test_what_cannot_be_measured_holds_the_canary_and_says_so(make_world):
    world, good, new = begin(make_world)
    act(world)
    world.verdict = Verdict(missing="ErrorRate from 3 of 10 requests")
    world.now += 10_000
    act(world)
    assert shares(world) == {good: 75, new: 25}
    progressing = conditions(world)["Progressing"]
    assert (progressing["status"], progressing["reason"]) == ("Unknown", "AnalysisUnavailable")
    assert "3 of 10 requests" in progressing["message"]


def test_a_canary_says_where_it_is(make_world):
    world, _, new = begin(make_world)
    act(world)
    progressing = conditions(world)["Progressing"]
    assert progressing["reason"] == "Canary"
    assert f"step 1 of 2: revision {new} gets 25 % of the requests" in progressing["message"]


def test_the_first_revision_is_no_canary(make_world):
    world = make_world(replicas=2, rollout=CANARY)
    world.settle()
    assert world.plan().course.stage is None
    assert len(world.routable) == 2


def test_a_scale_up_beside_a_canary_makes_replicas_of_the_good_revision(make_world):
    world, good, new = begin(make_world, replicas=2)
    act(world)
    world.change(replicas=8)
    act(world)
    revisions = [world.revision_of(group) for group in world.groups]
    assert (revisions.count(good), revisions.count(new)) == (6, 2)
    assert shares(world) == {good: 75, new: 25}


def test_a_spec_that_changes_midway_begins_at_the_first_step(make_world):
    world, good, second = begin(make_world)
    act(world)
    world.now += 60
    act(world)
    world.change(engine={"maxSequences": 2})
    third = world.plan().course.revision
    act(world, rounds=20)
    assert shares(world) == {good: 75, third: 25}
    assert not any(world.revision_of(group) == second for group in world.groups)


def test_a_revision_that_is_tried_again_begins_at_the_first_step(make_world):
    world, good, new = begin(make_world)
    act(world)
    world.now += 60
    act(world)
    world.change(engine={})
    world.settle()
    world.change(engine={"maxSequences": 4})
    act(world)
    assert shares(world) == {good: 75, new: 25}
