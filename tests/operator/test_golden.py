"""Golden prompts before a new group gets requests, and rollouts that are paused."""

from openinference_operator import names

from tests.operator.canaries import CANARY, act, begin, conditions, shares

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
