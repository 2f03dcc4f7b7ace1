"""Groups that wait for nodes: who gives up, when they try again, and that nobody waits for ever."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_operator.facts import Facts
from openinference_operator.gang import (
    ALONE_SECONDS,
    CONTENDED_SECONDS,
    Waiting,
    find_waiting,
    note,
    retry_at,
    to_give_up,
)
from openinference_operator.operations import Create, Resize
from openinference_operator.status import build_status
from openinference_operator.timestamps import from_text, to_text


def waiting(group, tried_at=0.0, since=None, placed=1):
    return Waiting(tried_at, "team-a", group, tried_at if since is None else since, placed)


def given_up(*groups, now=1.0):
    return {name for _, name in to_give_up(groups, now)}


def test_one_group_that_holds_some_nodes_waits():
    assert given_up(waiting("a")) == set()


def test_of_two_the_one_that_tried_later_gives_up():
    assert given_up(waiting("a", tried_at=1.0), waiting("b", tried_at=0.0)) == {"a"}


def test_of_two_that_began_together_the_higher_name_gives_up():
    assert given_up(waiting("demo-1-0"), waiting("demo-1-1")) == {"demo-1-1"}


def test_a_group_that_holds_nothing_has_nothing_to_give_up():
    assert given_up(waiting("a"), waiting("b", placed=0)) == set()


@pytest.mark.parametrize(("others", "seconds"), [(0, ALONE_SECONDS), (1, CONTENDED_SECONDS)])
def test_nodes_are_not_hoarded_and_sooner_given_up_where_somebody_waits(others, seconds):
    groups = [waiting("a"), *(waiting("b", placed=0) for _ in range(others))]
    assert given_up(*groups, now=seconds - 1) == set()
    assert given_up(*groups, now=seconds) == {"a"}


def test_pauses_double_up_to_a_bound_and_old_attempts_are_forgotten():
    start = from_text("2026-01-01T00:00:00Z")
    pauses, times = [], []
    for _ in range(7):
        times.append(times[-1] + 100 if times else start)
        pauses.append(retry_at(times) - times[-1])
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    assert note(times, start + 10_000) == to_text(start + 10_000)


@given(
    capacity=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 1 << 32),
)
def test_whatever_the_scheduler_does_no_group_that_fits_waits_for_ever(capacity, sizes, seed):
    """A scheduler that binds pods one by one in any order, on so many equal nodes."""
    chance = random.Random(seed)
    placed, tried_at = [0] * len(sizes), [0.0] * len(sizes)
    pauses, back_at = [[] for _ in sizes], [0.0] * len(sizes)
    for tick in range(800):
        now = tick * 5.0
        for index, at in enumerate(back_at):
            if at == now:
                tried_at[index] = now
        wanting = [
            index
            for index, size in enumerate(sizes)
            if back_at[index] <= now
            for _ in range(size - placed[index])
        ]
        chance.shuffle(wanting)
        for index in wanting[: capacity - sum(placed)]:
            placed[index] += 1
        short = [
            Waiting(tried_at[index], "team-a", str(index), tried_at[index], placed[index])
            for index, size in enumerate(sizes)
            if placed[index] < size and back_at[index] <= now
        ]
        for _, name in to_give_up(short, now):
            index = int(name)
            pauses[index].append(now)
            placed[index], back_at[index] = 0, retry_at(pauses[index])
        holders = [index for index, size in enumerate(sizes) if 0 < placed[index] < size]
        assert len(holders) <= 1
    whole = sum(size for index, size in enumerate(sizes) if placed[index] == size)
    left = [size for index, size in enumerate(sizes) if placed[index] < size]
    assert all(size > capacity - whole for size in left)


@pytest.fixture
def world(make_world):
    """Two replicas of two pods each."""
    pair = make_world(replicas=2, parallelism={"pipeline": 2})
    pair.settle()
    return pair


def place_halves(world):
    """One pod of each of the two groups finds a node, the other none. Their names, in order."""
    first, second = sorted(world.groups)
    world.unplaced = {f"{first}-1", f"{second}-1"}
    world.ready -= {first, second}
    return first, second


def delete_revisions(world):
    for key in [key for key in world.objects if key[0] == "ControllerRevision"]:
        del world.objects[key]


def test_of_two_groups_that_hold_half_of_what_they_need_one_lets_go_and_comes_back(world):
    first, second = place_halves(world)
    world.reconcile()
    assert sizes_of(world) == {first: 2, second: 0}
    world.unplaced = set()
    world.reconcile()
    assert sizes_of(world) == {first: 2, second: 0}
    status, reason, message = scheduled(world)
    assert (status, reason) == ("False", "GroupGivenUp")
    assert f"{second} found nodes for some of its 2 pods only" in message
    world.now += 10
    world.reconcile()
    assert sizes_of(world) == {first: 2, second: 2}
    world.settle()
    assert world.routable == {first, second}


def test_the_groups_of_other_services_count(world):
    """Their operator decides by the same order, so nobody else needs to act."""
    first, _ = sorted(world.groups)
    world.unplaced = {f"{first}-1"}
    world.ready -= {first}
    assert not resizes(world.plan())
    pods = world.pods()
    found = find_waiting([*pods, *of_another_service(pods)])
    assert [each.group for each in found] == [first, first]
    assert to_give_up(found, found[0].since) == {("team-b", first)}


def test_a_crash_between_two_writes_leaves_nothing_half_done(world):
    place_halves(world)
    [resize] = resizes(world.plan())
    assert resize.pods == 0
    assert len(resize.annotations) == 1


def test_nodes_are_let_go_before_anything_that_might_be_refused(world):
    """A quota that refused a rollout's creation let a half placed group keep its nodes for ever."""
    first, second = place_halves(world)
    world.change(podTemplate={"env": [{"name": "MARKER", "value": "new"}]})
    plan = world.reconcile(crash_after=1)
    assert any(isinstance(each, Create) for each in plan.operations)
    assert sizes_of(world) == {first: 2, second: 0}


def test_a_group_that_goes_does_not_try_again_first(world):
    _, second = place_halves(world)
    world.reconcile()
    world.unplaced = set()
    world.now += 10
    world.change(replicas=1)
    plan = world.reconcile()
    assert second in plan.course.step.drain
    assert not resizes(plan)


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_group_that_somebody_scaled_gets_its_pods_back(world, replicas):
    """`kubectl scale statefulset` left a group without its second pod for ever."""
    first, second = sorted(world.groups)
    world.groups[first]["spec"]["replicas"] = replicas
    world.reconcile()
    assert sizes_of(world) == {first: 2, second: 2}
    assert not resizes(world.plan())


def test_a_group_whose_revision_was_deleted_keeps_its_pods(world):
    """How many it has is told there; without it a group of two looked like one pod."""
    delete_revisions(world)
    assert not resizes(world.plan())


def test_a_group_that_cannot_try_again_is_not_looked_at_all_the_time(world):
    """Its pause was over and its revision gone: ten looks a second, for ever."""
    place_halves(world)
    world.reconcile()
    world.unplaced = set()
    delete_revisions(world)
    world.now += 10
    look_again_at = world.plan().look_again_at
    assert look_again_at is None or look_again_at > world.now


def scheduled(world):
    status = build_status(Facts(world.parsed, world.observe(), world.plan(), None, world.now))
    found = next(entry for entry in status["conditions"] if entry["type"] == "Scheduled")
    return found["status"], found["reason"], found["message"]


def resizes(plan):
    return [each for each in plan.operations if isinstance(each, Resize)]


def sizes_of(world):
    return {name: obj["spec"]["replicas"] for name, obj in world.groups.items()}


def of_another_service(pods):
    return [pod | {"metadata": pod["metadata"] | {"namespace": "team-b"}} for pod in pods]
