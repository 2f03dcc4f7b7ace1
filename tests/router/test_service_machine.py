"""Seats and the line in front of them, whatever happens in whatever order."""

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from openinference_router.errors import AttemptFailed, Refusal
from openinference_router.group import look_ahead

from tests.router.support.rig import Rig, routing


class Seats(RuleBasedStateMachine):
    """No group is over its limit, and nobody is passed over."""

    MAX_WAITING = 5

    @initialize(num_groups=st.integers(0, 3))
    def start(self, num_groups):
        self.rig = Rig(num_groups, max_requests=self.MAX_WAITING)
        self.tickets = []

    def groups(self):
        return list(self.rig.service.groups.values())

    @rule()
    def arrive(self):
        has_place = self.rig.service.held < self.MAX_WAITING
        with contextlib.nullcontext() if has_place else pytest.raises(Refusal, match="wait for"):
            self.tickets.append(self.rig.enter())

    @rule(number=st.integers(0, 100))
    def leave(self, number):
        if self.tickets:
            self.rig.service.leave(self.tickets.pop(number % len(self.tickets)))

    @rule(number=st.integers(0, 100), seats=st.integers(1, 4), ready=st.booleans())
    def report(self, number, seats, ready):
        if self.groups():
            number %= len(self.groups())
            running = self.groups()[number].in_flight
            self.rig.report(number, seats=seats, ready=ready, running=running)

    @rule(number=st.integers(0, 100))
    def lose(self, number):
        if self.groups():
            self.rig.service.disconnected(self.groups()[number % len(self.groups())])

    @rule(passed=st.floats(0, 3))
    def fail(self, passed):
        self.rig.clock.now += passed
        if self.groups():
            self.rig.service.attempt_failed(self.groups()[0], AttemptFailed("broke"))

    @rule(num_groups=st.integers(0, 3))
    def route(self, num_groups):
        self.rig.service.route(routing(num_groups, max_requests=self.MAX_WAITING))

    @invariant()
    def in_flight_is_who_has_a_seat(self):
        for group in self.groups():
            assert group.in_flight == sum(t.group is group for t in self.tickets)

    @invariant()
    def nobody_waits_while_there_is_room(self):
        has_room = any(group.is_admitted and group.has_room for group in self.groups())
        assert not (has_room and self.rig.service.held)

    @invariant()
    def seats_went_in_order_of_arrival(self):
        seated = [ticket.rank.number for ticket in self.tickets if ticket.group]
        waiting = [ticket.rank.number for ticket in self.tickets if not ticket.group]
        assert not (seated and waiting) or max(seated) < min(waiting)

    @invariant()
    def the_line_is_bounded(self):
        assert self.rig.service.held <= self.MAX_WAITING


class Limits(Seats):
    """With seats that never shrink, no group ever holds more than seats and look-ahead."""

    @rule(number=st.integers(0, 100), seats=st.just(3), ready=st.booleans())
    def report(self, number, seats, ready):
        super().report(number, seats, ready)

    @invariant()
    def no_group_is_over_its_limit(self):
        assert all(group.in_flight <= 3 + look_ahead(3) for group in self.groups())


TestSeats = Seats.TestCase
TestLimits = Limits.TestCase
TestSeats.settings = TestLimits.settings = settings(
    max_examples=3 * settings.default.max_examples // 5, stateful_step_count=40
)
