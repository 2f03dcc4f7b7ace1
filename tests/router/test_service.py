"""Seats and the line in front of them, with a clock that the tests turn."""

import asyncio

import pytest
from msgspec.structs import replace
from openinference_router.budgets import NOTHING_SPENT
from openinference_router.choice import Wish
from openinference_router.errors import Refusal
from openinference_router.waiting import Caller
from openinference_router.wire import BalancingPolicy

from tests.router.support.rig import Rig, routing


def test_a_request_gets_a_seat_at_once_when_there_is_one():
    rig = Rig()
    rig.report()
    assert rig.enter().group is rig.service.groups["g0"]


def test_requests_are_held_while_there_is_no_replica_and_served_when_one_comes():
    rig = Rig()
    tickets = [rig.enter() for _ in range(3)]
    assert rig.service.held == 3
    rig.report(seats=8)
    assert rig.service.held == 0
    assert all(ticket.group for ticket in tickets)


def test_seats_are_given_in_order_of_arrival():
    rig = Rig()
    first, second, third, fourth = (rig.enter() for _ in range(4))
    rig.report(seats=1)  # a seat and a look-ahead of one
    assert [bool(t.group) for t in (first, second, third, fourth)] == [True, True, False, False]
    rig.service.leave(second)
    assert third.group
    assert not fourth.group


def test_weights_hold_within_any_hundred_requests():
    """A canary's share is judged over few requests: chance would give 4 or 16 of a hundred."""
    rig = Rig(num_groups=2)
    draws = [rig.service.wish({}, {}).draw for _ in range(1000)]
    for first in range(0, 900, 50):
        assert 9 <= sum(draw < 0.1 for draw in draws[first : first + 100]) <= 11


def test_a_session_has_one_draw_and_one_home():
    balancing = BalancingPolicy(session_header="x-session-id")
    rig = Rig(num_groups=2, balancing=balancing)
    wishes = [rig.service.wish({}, {"x-session-id": "s"}) for _ in range(3)]
    assert len(set(wishes)) == 1
    assert wishes[0].affinity != rig.service.wish({}, {"x-session-id": "other"}).affinity


def test_a_full_revision_lets_requests_of_the_other_pass():
    rig = Rig(num_groups=2)
    old, new = rig.service.routing.groups
    groups = (replace(old, weight=50), replace(new, weight=50, revision="r2"))
    rig.service.route(replace(rig.service.routing, groups=groups))
    rig.report(0, running=2)
    rig.report(1)
    first, second = rig.enter(draw=0.1), rig.enter(draw=0.9)
    assert not first.group
    assert second.group is rig.service.groups["g1"]


def test_who_comes_back_after_a_failure_stands_before_all_that_came_later():
    rig = Rig()
    rig.report()
    early, other = rig.enter(), rig.enter()
    late = rig.enter()
    waited = rig.service.waited(early)
    rig.service.disconnected(rig.service.groups["g0"])
    rig.service.leave(early)
    back = rig.service.enter(early.rank, Wish(), waited)
    rig.report()
    assert back.group
    assert other.group
    assert not late.group


def test_a_stream_that_needs_a_special_replica_lets_others_pass():
    rig = Rig()
    keyed, plain = rig.enter(resume_key="other"), rig.enter()
    rig.report()
    assert not keyed.group
    assert plain.group


def test_a_full_line_is_429_but_not_for_who_returns():
    rig = Rig(max_requests=1)
    rig.enter()
    with pytest.raises(Refusal) as caught:
        rig.enter()
    assert (caught.value.status, caught.value.code) == (429, "queue_full")
    rig.service.enter(rig.service.rank(Caller()), Wish(), waited=NOTHING_SPENT)
    assert rig.service.held == 2


async def test_the_contended_budget_ends_in_429_and_the_cold_one_in_503():
    rig = Rig(contended_timeout_seconds=5, cold_start_timeout_seconds=50)
    cold = rig.enter()
    rig.clock.now = 49.9
    assert await rig.service.wait(cold, beat_seconds=0.01) is None
    rig.clock.now = 50.0
    with pytest.raises(Refusal) as caught:
        await rig.service.wait(cold, beat_seconds=0.01)
    assert (caught.value.status, caught.value.headers()) == (503, {"Retry-After": "5"})

    rig.report(running=1, waiting=1)
    rig.clock.now = 54.9
    assert await rig.service.wait(cold, beat_seconds=0.01) is None
    rig.clock.now = 55.0
    with pytest.raises(Refusal) as caught:
        await rig.service.wait(cold, beat_seconds=0.01)
    assert (caught.value.status, caught.value.code) == (429, "queue_timeout")


async def test_a_cut_stream_is_not_held_when_no_replica_could_ever_go_on():
    rig = Rig()
    ticket = rig.enter(resume_key="old")
    assert await rig.service.wait(ticket, beat_seconds=0.01) is None  # g0 has not said its key yet
    rig.report(resume_key="new")
    with pytest.raises(Refusal) as caught:
        await rig.service.wait(ticket, beat_seconds=0.01)
    assert caught.value.status == 503


async def test_the_deletion_of_a_service_refuses_who_waits():
    rig = Rig()
    waiting = asyncio.create_task(rig.service.wait(rig.enter(), beat_seconds=60))
    await asyncio.sleep(0)
    rig.service.remove()
    with pytest.raises(Refusal) as caught:
        await waiting
    assert caught.value.code == "service_deleted"
    with pytest.raises(Refusal, match="was deleted"):
        rig.enter()


async def test_a_stream_is_not_asked_for_its_end_while_its_group_stays():
    """Reports come up to ten times a second, and a group has many streams."""
    rig = Rig()
    rig.report()
    asked = []
    async with rig.service.groups["g0"].attempt() as attempt:
        attempt.can_move, attempt.end_at = True, lambda: asked.append(1) or 0.0
        rig.report()
        assert not asked
        rig.report(draining=True)
        assert asked


def test_new_routing_keeps_what_is_known_of_a_group():
    rig = Rig(num_groups=2)
    rig.report()
    ticket = rig.enter()
    rig.service.route(routing(num_groups=1))
    assert rig.service.groups["g0"].in_flight == 1
    rig.service.leave(ticket)
    assert rig.service.groups["g0"].in_flight == 0
