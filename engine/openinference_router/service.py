"""One InferenceService at this router: its groups, its line, and the seats it hands out.

Synchronous but for `wait`: every change (a request, a freed seat, a report, new routing) ends in
`_dispatch`, which gives seats to the first in line while there is room. Knows nothing of HTTP.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import msgspec

from openinference_router.budgets import NOTHING_SPENT, CapacityClock, RetryBudget, Spent
from openinference_router.choice import Wish, choose
from openinference_router.errors import AttemptFailed, Moved, overloaded, unavailable
from openinference_router.group import Group
from openinference_router.leaving import leaving
from openinference_router.meter import Meter
from openinference_router.patience import patience_seconds
from openinference_router.waiting import Caller, Rank, Ticket, WaitingLine
from openinference_router.wire import LoadReport, Routing, ServiceState
from openinference_router.wishes import Wishes

MAX_ERRORS_IN_A_ROW = 5
"""Then a group is an outlier; the figure of Envoy's outlier detection."""


class Service:
    """Owned by the router; `changed` is called after each change that `/state` shows."""

    def __init__(
        self, routing: Routing, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self.routing = routing
        self.groups: dict[str, Group] = {}
        self.open_requests = 0
        self.meter = Meter()
        self._retries = RetryBudget(clock())
        self._wishes = Wishes()
        self._is_removed = False
        self._clock = clock
        self._changed = changed
        self._line = WaitingLine()
        self._capacity = CapacityClock(clock())
        self.route(routing)

    @property
    def name(self) -> str:
        return self.routing.service

    @property
    def held(self) -> int:
        """Requests that wait here."""
        return len(self._line)

    @property
    def in_flight(self) -> int:
        """Requests of this router inside engines."""
        return sum(group.in_flight for group in self.groups.values())

    @property
    def num_admitted(self) -> int:
        """Groups that this router sends requests to."""
        return sum(group.is_admitted for group in self.groups.values())

    def state(self) -> ServiceState:
        return ServiceState(
            generation=self.routing.generation,
            held=self.held,
            groups={group.id: group.state() for group in self.groups.values()},
        )

    # What the operator and the engines say.

    def route(self, routing: Routing) -> None:
        """Take over new routing; a group keeps what is known of it while its address stays."""
        before, self.groups = self.groups, {}
        for routed in routing.groups:
            group = before.get(routed.id)
            if group is None or group.routed.address != routed.address:
                group = Group(routed)
            group.routed = routed
            self.groups[routed.id] = group
        self.routing = routing
        for group in self.groups.values():
            self._look_after(group)
        self._dispatch()

    def remove(self) -> None:
        """The service is gone: whoever waits is refused, what runs may finish."""
        self._is_removed = True
        self.groups = {}
        for ticket in self._line:
            ticket.granted.set()

    def is_watched(self, group: Group) -> bool:
        """A group is listened to while it is routed, and after that while requests are inside."""
        return self.groups.get(group.id) is group or group.in_flight > 0

    def report(self, group: Group, load: LoadReport) -> None:
        group.report(load, self._clock())
        self._look_after(group)
        self._dispatch()

    def disconnected(self, group: Group) -> None:
        group.disconnected()
        self._dispatch()

    def died(self, group: Group) -> None:
        group.died()
        self._dispatch()

    def attempt_failed(self, group: Group, failure: AttemptFailed) -> None:
        """Eject a group that broke; one that declined is asked again after its next report."""
        if failure.is_broken:
            group.failed(self._clock())
        elif not isinstance(failure, Moved):
            group.disconnected()
        self._dispatch()

    def answered(self, group: Group, status: int) -> None:
        """Eject a group that fails every request while others answer: theirs is not the fault."""
        group.answered(status)
        if group.errors_in_a_row >= MAX_ERRORS_IN_A_ROW and any(
            other.is_admitted and not other.errors_in_a_row for other in self.groups.values()
        ):
            group.failed(self._clock())

    def _look_after(self, group: Group) -> None:
        """Move streams on that their group would not finish: it is stuck, or drains too soon.

        Only a drain is nobody's fault: a request on which engine after engine gets stuck is to be
        given up like one that breaks them.
        """
        now = self._clock()
        group.note_draining(now)
        drain_seconds = self.routing.drain_timeout_seconds
        for attempt in leaving(group, self.groups.values(), drain_seconds, now):
            attempt.end(AttemptFailed("is stuck") if group.is_stuck else Moved("drains"))

    # What requests ask.

    @contextlib.contextmanager
    def open_request(self) -> Iterator[None]:
        """A request from its arrival to its end; pays into the retry budget."""
        self._retries.earn()
        self.open_requests += 1
        try:
            yield
        finally:
            self.open_requests -= 1
            self._changed()

    def may_retry(self) -> bool:
        """Take one retry out of the budget; False when it is spent."""
        return self._retries.spend(self.open_requests, self._clock())

    def wish(self, fields: Mapping[str, msgspec.Raw], headers: Mapping[str, str]) -> Wish:
        """Where a request that arrives now would like to go."""
        return self._wishes.next(fields, headers, self.routing.balancing, len(self.groups))

    def rank(self, caller: Caller, patience_seconds: float = math.inf) -> Rank:
        """The standing of a request that arrives now; kept over all its attempts."""
        return self._line.rank(caller, self._clock(), patience_seconds)

    def enter(self, rank: Rank, wish: Wish, waited: Spent | None = None) -> Ticket:
        """A seat if there is room and nobody waits, else a place in line; `leave` gives back both.

        Raises Refusal 429 when the line is full, 503 when the service is gone. Whoever returns
        after a failed attempt says how long it has `waited` so far: it was admitted before and
        always gets in.
        """
        self._check_not_removed()
        reading = self._capacity.read(self._clock())
        ticket = Ticket(rank, wish, reading.since(waited or NOTHING_SPENT))
        ticket.deadline_at = rank.deadline_at if waited is None else math.inf
        self._line.enter(ticket)
        self._dispatch()
        limit = self.routing.queue.max_requests
        if ticket.is_in_line and len(self._line) > limit and waited is None:
            self.leave(ticket)
            raise overloaded(f"{limit} requests wait for '{self.name}' already", code="queue_full")
        return ticket

    async def wait(self, ticket: Ticket, beat_seconds: float) -> Group | None:
        """The group that has a seat for `ticket`; None when a beat passed without.

        Raises Refusal when a waiting budget is spent (429 behind others, 503 without capacity).
        """
        if ticket.group is not None:
            return ticket.group
        patience_seconds = self._patience_seconds(ticket)
        try:
            async with asyncio.timeout(min(beat_seconds, patience_seconds)):
                await ticket.granted.wait()
        except TimeoutError:
            if ticket.group is None:
                self._patience_seconds(ticket)  # raises when it was not just the beat
        self._check_not_removed()
        return ticket.group

    def waited(self, ticket: Ticket) -> Spent:
        """How long `ticket` has waited, if it got its seat now."""
        return self._capacity.read(self._clock()).since(ticket.waiting_since)

    def leave(self, ticket: Ticket) -> None:
        """Give back the seat or the place in line, whichever `ticket` holds."""
        if ticket.is_in_line:
            self._line.leave(ticket)
        ticket.release()
        self._dispatch()

    def _check_not_removed(self) -> None:
        if self._is_removed:
            raise unavailable(f"service '{self.name}' was deleted", code="service_deleted")

    def _dispatch(self) -> None:
        admitted = [group for group in self.groups.values() if group.is_admitted]
        self._capacity.set(bool(admitted), self._clock())
        for ticket in self._line:
            if not any(group.has_room for group in admitted):
                break
            # One that needs a special group, or another revision, lets others pass.
            if (group := choose(admitted, ticket.wish)) is not None:
                self._line.serve(ticket, group)
        self._changed()

    def _patience_seconds(self, ticket: Ticket) -> float:
        """How much longer `ticket` may wait, as things are now. Raises Refusal when not at all."""
        return patience_seconds(
            ticket,
            self.waited(ticket),
            self.routing,
            has_capacity=self._capacity.has_capacity,
            is_hopeless=self._is_hopeless(ticket.wish),
            now=self._clock(),
        )

    def _is_hopeless(self, wish: Wish) -> bool:
        """A stream that no replica could go on with: all have told other resume keys."""
        groups = self.groups.values()
        keys_known = bool(groups) and all(g.resume_key not in ("", wish.resume_key) for g in groups)
        return wish.resume_key is not None and keys_known
