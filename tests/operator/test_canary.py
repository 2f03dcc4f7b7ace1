"""Canaries: tables of single transitions, then whole ways in the model cluster."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_operator import names
from openinference_operator.canary import Place, Verdict, group_weights, next_stage
from openinference_operator.facts import Facts
from openinference_operator.rollout import Split
from openinference_operator.rollout_spec import CanaryStep, Limit
from openinference_operator.signals.analysis import Figures, judge
from openinference_operator.status import build_status

STEPS = (CanaryStep(10, 60), CanaryStep(50, 120))
CONTENT, MISSING = Verdict(), Verdict(missing="requests")
CANARY = {
    "strategy": "Canary",
    "canary": {"steps": [{"weight": 25, "pause": "1m"}, {"weight": 50, "pause": "2m"}]},
}

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


def shares(world):
    """Percent of the requests by revision, as routers share them out by weight."""
    weights = {}
    for route in world.routers[0].routing["groups"]:
        if route["id"] in world.routable:
            weights[route["revision"]] = weights.get(route["revision"], 0) + route["weight"]
    return {
        revision: round(100 * sum_ / sum(weights.values())) for revision, sum_ in weights.items()
    }


def begin(make_world, replicas=4, **rollout):
    world = make_world(replicas=replicas, rollout=CANARY | rollout)
    world.settle()
    good = world.plan().course.revision
    world.change(engine={"maxSequences": 4})
    return world, good, world.plan().course.revision


def act(world, rounds=12):
    for _ in range(rounds):
        world.reconcile()
        world.everybody_acts()


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


GOLDEN = {"canary": CANARY["canary"] | {"golden": [{"prompt": "2+2?", "expect": "4"}]}}


def test_a_new_group_answers_golden_prompts_before_it_gets_a_request(make_world):
    world, good, new = begin(make_world, **GOLDEN)
    world.answers_golden = False
    act(world)
    assert new in {world.revision_of(group) for group in world.ready}
    assert {route["revision"] for route in world.routers[0].routing["groups"]} == {good}
    assert "has golden prompts to answer" in conditions(world)["Progressing"]["message"]
    world.answers_golden = True
    act(world)
    assert shares(world) == {good: 75, new: 25}


def test_a_failed_golden_prompt_is_rolled_back(make_world):
    world, good, _ = begin(make_world, **GOLDEN)
    serving = set(world.groups)
    world.golden_failure = "demo-x-0 answered golden prompt '2+2?' with '5', expected '4' in it"
    world.settle()
    assert set(world.groups) == serving == world.routable
    assert conditions(world)["Progressing"]["reason"] == "RolledBack"
    assert "with '5'" in conditions(world)["Ready"]["message"]
    assert world.plan().course.target == good


def test_golden_prompts_that_are_not_answered_in_time_fail_the_revision(make_world):
    world, good, _ = begin(make_world, progressDeadline="5m", **GOLDEN)
    world.answers_golden = False
    act(world)
    world.now += 301
    world.settle()
    assert "did not answer its golden prompts within 300 s" in world.plan().course.failure
    assert world.plan().course.target == good


def test_replicas_of_a_revision_that_was_proved_need_no_golden_prompt(make_world):
    world, _, _ = begin(make_world, **GOLDEN)
    world.settle()
    world.answers_golden = False
    world.change(replicas=6)
    world.settle()
    assert len(world.routable) == 6


def test_a_paused_rollout_stays_where_it_is_and_goes_on(make_world):
    world = make_world(replicas=4)
    world.settle()
    world.change(engine={"maxSequences": 4})
    new = world.plan().course.revision
    for _ in range(4):
        world.reconcile()
        world.everybody_acts()
    world.change(rollout={"paused": True})
    world.settle()
    fresh = [group for group in world.groups if world.revision_of(group) == new]
    assert 0 < len(fresh) < 4 == len(world.routable)
    progressing = conditions(world)["Progressing"]
    assert (progressing["status"], progressing["reason"]) == ("Unknown", "Paused")
    world.change(rollout={"paused": False})
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {new}


def test_a_paused_service_still_follows_its_number_of_replicas(make_world):
    world = make_world(replicas=2)
    world.settle()
    good = world.plan().course.revision
    world.change(engine={"maxSequences": 4}, rollout={"paused": True}, replicas=4)
    world.settle()
    assert [world.revision_of(group) for group in world.groups] == [good] * 4
    world.change(replicas=1)
    world.settle()
    assert [world.revision_of(group) for group in world.groups] == [good]


def test_paused_says_nothing_about_a_service_at_rest(make_world):
    world = make_world(replicas=2, rollout={"paused": False})
    world.settle()
    world.change(rollout={"paused": True}, replicas=3)
    world.settle()
    assert len(world.routable) == 3
    assert conditions(world)["Progressing"]["reason"] == "Complete"


def test_a_paused_canary_keeps_its_step(make_world):
    world, good, new = begin(make_world)
    act(world)
    world.change(rollout=CANARY | {"paused": True})
    world.now += 10_000
    act(world)
    assert shares(world) == {good: 75, new: 25}


def test_a_finished_canary_leaves_no_note(make_world):
    world, _, _ = begin(make_world)
    world.settle()
    revisions = [obj for (kind, _), obj in world.objects.items() if kind == "ControllerRevision"]
    assert not any(names.ANNOTATION_CANARY in obj["metadata"]["annotations"] for obj in revisions)


def figures(failed=0, attempts=100, ttft=1.0):
    return Figures(attempts, failed, attempts, ttft)


ERRORS = Limit("ErrorRate", Decimal("0.01"), None)
SLOWER = Limit("TTFT", None, Decimal("1.5"))
BOTH = Limit("TTFT", Decimal(2), Decimal("1.5"))
JUDGEMENTS = {
    # name: (limits, new, old) -> (what fails, what is missing)
    "good": ([ERRORS, SLOWER], figures(), figures(), "", ""),
    "at its limit": ([ERRORS], figures(failed=1), figures(), "", ""),
    "fails": ([ERRORS], figures(failed=2), figures(), "0.02, above max = 0.01", ""),
    "too few requests": ([ERRORS], figures(9, 9), figures(), "", "9 of 10 requests"),
    "no requests": ([SLOWER], Figures(), figures(), "", "0 of 10 requests"),
    "slower than the old": ([SLOWER], figures(ttft=1.6), figures(), "maxRatio = 1.5 of 1", ""),
    "nothing to compare": ([SLOWER], figures(), Figures(), "", "old revision to compare"),
    "the tighter of two": ([BOTH], figures(ttft=2.5), figures(ttft=4), "above max = 2", ""),
}


@pytest.mark.parametrize(
    ("limits", "new", "old", "failed", "missing"), JUDGEMENTS.values(), ids=JUDGEMENTS.keys()
)
def test_analysis(limits, new, old, failed, missing):
    verdict = judge(limits, new, old, "1a2b3c4d")
    assert (bool(verdict.failed), bool(verdict.missing)) == (bool(failed), bool(missing))
    assert failed in verdict.failed
    assert missing in verdict.missing


def conditions(world):
    evidence = world.evidence()
    facts = Facts(world.parsed, world.observe(), world.plan(), None, world.now, evidence)
    return {entry["type"]: entry for entry in build_status(facts)["conditions"]}
