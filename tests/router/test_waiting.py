"""Who is next: classes, turns of keys, arrival."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.budgets import NOTHING_SPENT
from openinference_router.choice import Wish
from openinference_router.group import Group
from openinference_router.waiting import AGEING_SECONDS, Caller, Ticket, WaitingLine
from openinference_router.wire import RoutedGroup

GROUP = Group(RoutedGroup("g", "r1", "http://g:8000", "Active"))


class Line:
    """A waiting line and the names of who stands in it."""

    def __init__(self) -> None:
        self.line = WaitingLine()

    def arrive(self, key: str = "", priority: int = 1, now: float = 0.0) -> Ticket:
        rank = self.line.rank(Caller(key, priority), now)
        ticket = Ticket(rank, Wish(), NOTHING_SPENT)
        self.line.enter(ticket)
        return ticket

    def serve(self) -> Ticket:
        ticket = next(iter(self.line))
        self.line.serve(ticket, GROUP)
        return ticket

    def served_keys(self) -> str:
        return "".join(self.serve().rank.caller.key for _ in range(len(self.line)))


@pytest.mark.parametrize(
    ("arrivals", "served"),
    [
        ("", ""),
        ("aaa", "aaa"),
        ("aaaabb", "ababaa"),
        ("aaaabbc", "abcabaa"),
        ("abcabc", "abcabc"),
    ],
)
def test_keys_take_turns(arrivals, served):
    line = Line()
    for key in arrivals:
        line.arrive(key)
    assert line.served_keys() == served


def test_a_newcomer_is_not_owed_what_others_got_before_it_came():
    line = Line()
    for key in "aaaaaaaaab":
        line.arrive(key)
    assert [line.serve().rank.caller.key for _ in range(5)] == list("abaaa")
    for _ in range(3):
        line.arrive("c")
    assert line.served_keys() == "cacacaaa"


def test_turns_are_forgotten_when_nobody_waits():
    line = Line()
    for _ in range(5):
        line.arrive("a")
    line.served_keys()
    for key in "ba":
        line.arrive(key)
    assert line.served_keys() == "ba"


def test_who_returns_stands_before_all_that_came_later_even_if_the_line_was_empty_meanwhile():
    line = Line()
    first = [line.arrive("a") for _ in range(3)]
    line.served_keys()
    later = [line.arrive("a") for _ in range(3)]
    for ticket in reversed(first):
        line.line.enter(ticket)
    assert list(line.line) == first + later


@pytest.mark.parametrize(
    ("wait", "served"),
    [
        (0.0, "hhl"),
        (AGEING_SECONDS - 1, "hhl"),
        (AGEING_SECONDS + 1, "lhh"),
    ],
)
def test_a_higher_class_goes_first_until_the_lower_one_has_waited_long(wait, served):
    line = Line()
    line.arrive("l", priority=1, now=0.0)
    line.arrive("h", priority=0, now=wait)
    line.arrive("h", priority=0, now=wait)
    assert line.served_keys() == served


ARRIVALS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=40)


@given(ARRIVALS)
def test_keys_that_wait_together_are_served_equally_often(arrivals):
    line = Line()
    for key in arrivals:
        line.arrive(key)
    served = line.served_keys()
    for one, other in [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]:
        both_wait = min(served.rfind(one), served.rfind(other))
        shared = served[: both_wait + 1]
        assert abs(shared.count(one) - shared.count(other)) <= 1


@given(ARRIVALS)
def test_inside_a_key_order_is_that_of_arrival(arrivals):
    line = Line()
    for key in arrivals:
        line.arrive(key)
    ranks = [line.serve().rank for _ in arrivals]
    for key in "abcd":
        numbers = [rank.number for rank in ranks if rank.caller.key == key]
        assert all(one < other for one, other in pairwise(numbers))


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 100)), max_size=40))
def test_classes_merge_by_arrival_and_ageing(arrivals):
    line = Line()
    for priority, now in sorted(arrivals, key=lambda arrival: arrival[1]):
        line.arrive("a", priority, now)
    served = [line.serve().rank.aged_arrival for _ in arrivals]
    assert served == sorted(now + priority * AGEING_SECONDS for priority, now in arrivals)
