"""Rollouts: tables of single steps, then whole sequences in the model cluster."""

import pytest
from openinference_operator.fields import Share
from openinference_operator.rollout import Bounds, GroupState, Phase, bounds, next_step
from openinference_operator.rollout_spec import Rollout

PHASES = {
    "s": Phase.STARTING,
    "b": Phase.BROKEN,
    "r": Phase.ROUTABLE,
    "u": Phase.UNROUTABLE,
    "d": Phase.DRAINING,
    "D": Phase.DRAINED,
    "x": Phase.DELETED,
    "l": Phase.LOST,
}


def groups(text):
    """`old:rr new:s` is two routable groups of revision old and a starting one of new."""
    return [
        GroupState(f"{revision}-{number}", revision, PHASES[letter], load=number)
        for revision, _, letters in (part.partition(":") for part in text.split())
        for number, letter in enumerate(letters)
    ]


STEPS = {
    # name: (groups, replicas, surge, unavailable) -> (create, drain, delete)
    "nothing exists": ("", 2, 1, 0, 2, "", ""),
    "enough exist": ("new:rr", 2, 1, 0, 0, "", ""),
    "starting groups are not asked for twice": ("new:rs", 2, 1, 0, 0, "", ""),
    "a rollout begins with the surge": ("old:rr", 2, 1, 0, 1, "", ""),
    "an old group goes when a new one is routable": ("old:rr new:r", 2, 1, 0, 0, "old-0", ""),
    "a new group that starts replaces nobody": ("old:rr new:s", 2, 1, 0, 0, "", ""),
    "a broken new group replaces nobody": ("old:rr new:b", 2, 1, 0, 0, "", ""),
    "a draining group counts as existing": ("old:rd new:r", 2, 1, 0, 0, "", ""),
    "a drained group is deleted": ("old:rD new:r", 2, 1, 0, 0, "", "old-1"),
    "a deleted group counts until it is gone": ("old:rx new:r", 2, 1, 0, 0, "", ""),
    "the next one follows": ("old:r new:r", 2, 1, 0, 1, "", ""),
    "the last old group goes": ("old:r new:rr", 2, 1, 0, 0, "old-0", ""),
    "without surge an old group goes first": ("old:rr", 2, 0, 1, 0, "old-0", ""),
    "without surge a new one comes when the old is gone": ("old:r", 2, 0, 1, 1, "", ""),
    "surge larger than replicas": ("old:r", 1, 5, 0, 1, "", ""),
    "all may be unavailable": ("old:rr", 2, 0, 2, 0, "old-0 old-1", ""),
    "old groups that never served go at once": ("old:sb", 2, 1, 0, 1, "old-1 old-0", ""),
    "old groups that served need the floor": ("old:uu", 2, 1, 0, 1, "", ""),
    "old groups that served go when new ones serve": (
        "old:uu new:rr",
        2,
        2,
        0,
        0,
        "old-0 old-1",
        "",
    ),
    "all old groups down do not block a replacing rollout": ("old:u", 1, 0, 1, 0, "old-0", ""),
    "a lost group does not count": ("new:rl", 2, 0, 1, 1, "", "new-1"),
    "a lost old group is replaced by a new one": ("old:lr", 2, 1, 0, 2, "", "old-0"),
    "scale-up": ("new:r", 3, 1, 0, 2, "", ""),
    "scale-down drains the least loaded": ("new:rrr", 2, 1, 0, 0, "new-0", ""),
    "scale-down drains what starts first": ("new:rrs", 2, 1, 0, 0, "new-2", ""),
    "scale-down drains what is broken first": ("new:rsb", 1, 1, 0, 0, "new-2 new-1", ""),
    "scale to zero": ("new:rr", 0, 1, 0, 0, "new-0 new-1", ""),
    "scale-up during a rollout": ("old:rr new:r", 4, 1, 0, 2, "", ""),
    "scale-down during a rollout": ("old:rrr new:r", 2, 1, 0, 0, "old-0 old-1", ""),
    "a third revision ends the second": ("old:rr mid:s new:", 2, 1, 0, 0, "mid-0", ""),
    "a revision that is taken back keeps its groups": ("mid:s new:rr", 2, 1, 0, 0, "mid-0", ""),
}


@pytest.mark.parametrize(
    ("text", "replicas", "surge", "unavailable", "create", "drain", "delete"),
    STEPS.values(),
    ids=STEPS.keys(),
)
def test_next_step(text, replicas, surge, unavailable, create, drain, delete):
    step = next_step(
        groups(text), "new", Bounds(replicas, surge, unavailable), routers_settled=True
    )
    assert (step.create, " ".join(step.drain), " ".join(step.delete)) == (create, drain, delete)


@pytest.mark.parametrize("text", ["old:rr new:rr", "new:rrr", "old:u new:rr"])
def test_nothing_that_may_serve_is_drained_while_routers_are_unsettled(text):
    step = next_step(groups(text), "new", Bounds(2, 2, 0), routers_settled=False)
    assert step.drain == ()


def test_what_never_served_is_drained_even_while_routers_are_unsettled():
    step = next_step(groups("old:sb"), "new", Bounds(2, 1, 0), routers_settled=False)
    assert set(step.drain) == {"old-0", "old-1"}


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        (Share(1, False), Share(0, False), 4, (1, 0)),
        (Share(25, True), Share(25, True), 4, (1, 1)),
        (Share(25, True), Share(25, True), 5, (2, 1)),
        (Share(0, False), Share(25, True), 2, (0, 1)),
        (Share(150, True), Share(0, False), 2, (3, 0)),
        (Share(50, True), Share(0, False), 0, (0, 1)),
    ],
)
def test_percentages_round_surge_up_and_unavailable_down(surge, unavailable, replicas, expected):
    limits = bounds(Rollout(surge, unavailable, 600, 1800), replicas)
    assert (limits.max_surge, limits.max_unavailable) == expected


def trace(world, rounds=30):
    """Reconcile with everybody acting in between; note every step that does something."""
    steps = []
    for _ in range(rounds):
        step = world.reconcile().course.step
        if step.create or step.drain or step.delete:
            steps.append((step.create, len(step.drain), len(step.delete)))
        world.everybody_acts()
    return steps


SURGE = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
REPLACE = [(0, 1, 0), (0, 0, 1), (1, 0, 0)]


@pytest.mark.parametrize(
    ("rollout", "expected"),
    [
        ({"maxSurge": 1, "maxUnavailable": 0}, [*SURGE, *SURGE]),
        ({"maxSurge": 0, "maxUnavailable": 1}, [*REPLACE, *REPLACE]),
        ({"maxSurge": 2, "maxUnavailable": 0}, [(2, 0, 0), (0, 2, 0), (0, 0, 2)]),
        ({"maxSurge": 0, "maxUnavailable": 2}, [(0, 2, 0), (0, 0, 2), (2, 0, 0)]),
        (
            {"maxSurge": 1, "maxUnavailable": 1},
            [(1, 1, 0), (0, 0, 1), (1, 1, 0), (0, 0, 1)],
        ),
    ],
    ids=["surge", "replace", "surge all", "replace all", "both"],
)
def test_sequence_of_a_rolling_update(make_world, rollout, expected):
    world = make_world(replicas=2, rollout=rollout)
    world.settle()
    world.change(engine={"maxSequences": 4})
    assert trace(world) == expected
    assert len(world.routable) == 2


def test_old_spec_applied_again_finds_its_revision(make_world):
    world = make_world(replicas=1)
    world.settle()
    first = world.plan().course.revision
    world.change(engine={"maxSequences": 4})
    world.settle()
    world.change(engine={})
    world.settle()
    revisions = [name for kind, name in world.objects if kind == "ControllerRevision"]
    assert world.plan().course.revision == first == world.observe().current_revision
    assert len(revisions) == 2


def test_a_drain_waits_for_requests_in_flight(make_world):
    world = make_world(replicas=1)
    world.settle()
    world.send_requests()
    world.change(engine={"maxSequences": 4})
    for _ in range(10):
        world.reconcile()
        world.start_pods()
        world.routers_read()
    assert len(world.draining) == 1
    assert not any("deletionTimestamp" in obj["metadata"] for obj in world.groups.values())
    world.finish_requests()
    assert len(world.reconcile().course.step.delete) == 1


def test_a_drain_ends_at_its_timeout(make_world):
    world = make_world(replicas=1, rollout={"drainTimeout": "2m"})
    world.settle()
    world.send_requests()
    world.change(engine={"maxSequences": 4})
    for _ in range(10):
        world.reconcile()
        world.start_pods()
        world.routers_read()
    assert world.plan().course.step.delete == ()
    world.now += 121
    assert len(world.plan().course.step.delete) == 1


def test_a_drain_waits_until_every_router_has_heard_of_it(make_world):
    world = make_world(replicas=2)
    world.settle()
    world.change(replicas=1)
    world.reconcile()
    world.routers_read(world.routers[:1])
    assert world.plan().course.step.delete == ()
    world.routers_read()
    assert len(world.plan().course.step.delete) == 1


def test_scale_down_drains_the_least_loaded_group(make_world):
    world = make_world(replicas=3)
    world.settle()
    busy = sorted(world.groups)[:2]
    for router in world.routers:
        router.in_flight = dict.fromkeys(busy, 2)
    world.change(replicas=2)
    world.reconcile()
    assert world.draining == world.groups.keys() - set(busy)


def test_scaling_makes_no_revision(make_world):
    world = make_world(replicas=1)
    world.settle()
    revision = world.plan().course.revision
    world.change(replicas=3, rollout={"maxSurge": 2}, router={"queue": {"maxRequests": 5}})
    world.settle()
    assert {world.revision_of(group) for group in world.groups} == {revision}
    assert len(world.groups) == 3


def test_a_broken_revision_leaves_the_old_one_serving(make_world):
    world = make_world(replicas=2)
    world.settle()
    serving = set(world.groups)
    world.change(engine={"maxSequences": 4})
    world.reconcile()
    world.broken = world.groups.keys() - serving
    for _ in range(10):
        world.everybody_acts()
        world.reconcile()
    assert world.routable == serving


def test_without_a_ready_router_nothing_that_serves_is_drained(make_world):
    world = make_world(replicas=2)
    world.settle()
    for router in world.routers:
        router.is_ready = False
    world.change(engine={"maxSequences": 4})
    for _ in range(5):
        world.reconcile()
        world.start_pods()
        world.routers_read()
    assert not world.draining


def test_suspend_drains_and_deletes_everything(make_world):
    world = make_world(replicas=2)
    world.settle()
    world.change(suspend=True)
    world.desired = 0
    world.settle()
    assert not world.groups
