"""One replica as this router sees it: routed by the operator, reporting its load, maybe ejected.

Owns what is counted here (requests in flight, failures) and what was last heard. Knows no sockets
and no clock: `load` and `proxy` tell it what happened and when. A group that fell silent ends its
attempts at once, so that their requests go on elsewhere.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable

from openinference_router.errors import AttemptFailed
from openinference_router.wire import GroupState, LoadReport, RoutedGroup

MAX_EJECTION_SECONDS = 30.0
INTERNAL_ERROR = 500


def look_ahead(seats: int) -> int:
    """How many requests may wait inside an engine, so that a freed seat is taken at once."""
    return max(1, seats // 8)


class Attempt:
    """One request inside a group: how long it was silent, and whether it could be elsewhere.

    Whoever serves the request notes what it hears; the group's reports, which come every second,
    are the occasions on which it is looked at. So no event of a stream needs a timer.
    """

    def __init__(self, life: asyncio.Timeout) -> None:
        self._life = life
        self._failure: AttemptFailed | None = None
        self.heard_at = math.inf
        self.patience_seconds = math.inf
        """Silent for longer than this it has stalled."""
        self.can_move = False
        """It is a stream that another group with the same resume key could go on with."""
        self.end_at: Callable[[], float] = lambda: math.inf
        """When its answer is expected to be complete."""

    @property
    def failure(self) -> AttemptFailed:
        return self._failure or AttemptFailed("fell silent")

    def end(self, failure: AttemptFailed) -> None:
        """Once; the attempt's context raises `failure`."""
        if self._failure is None:
            self._failure = failure
            self._life.reschedule(0.0)


class Group:
    """Mutable; all transitions are methods. Times are seconds of one monotonic clock."""

    def __init__(self, routed: RoutedGroup) -> None:
        self.routed = routed
        self.load: LoadReport | None = None
        self.resume_key = ""
        self.in_flight = 0
        self._in_flight_of_others = 0
        self.draining_since: float | None = None
        self.errors_in_a_row = 0
        """Answers with a status of 500 and more since the last one without."""
        self._failures = 0
        self._ejected_until: float | None = None
        self._attempts: set[Attempt] = set()

    @property
    def id(self) -> str:
        return self.routed.id

    @property
    def is_admitted(self) -> bool:
        """This router would choose the group now, if it has room."""
        return (
            self.load is not None
            and self.load.ready
            and not self.load.draining
            and self.routed.state == "Active"
            and not self.is_ejected
        )

    @property
    def is_ejected(self) -> bool:
        """It failed, and its pause is not over."""
        return self._ejected_until is not None

    @property
    def is_draining(self) -> bool:
        """The engine or the operator says that it will go."""
        return self.routed.state == "Draining" or (self.load is not None and self.load.draining)

    @property
    def is_stuck(self) -> bool:
        """Its process lives and reports, but its engine does not get on."""
        return self.load is not None and not self.load.ready and not self.load.draining

    @property
    def attempts(self) -> list[Attempt]:
        return list(self._attempts)

    @property
    def occupancy(self) -> int:
        """Requests inside: ours as counted, those of other routers as reported."""
        return self.in_flight + self._in_flight_of_others

    @property
    def limit(self) -> int:
        """Most requests inside: seats and a small look-ahead; 0 before the first report."""
        return self.load.seats + look_ahead(self.load.seats) if self.load else 0

    @property
    def has_room(self) -> bool:
        return self.occupancy < self.limit

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that wait there to be computed."""
        return self.load.queued_tokens if self.load else 0

    def connected(self) -> None:
        """A new `/load` connection: perhaps a new process, so old failures say nothing."""
        self._failures = self.errors_in_a_row = 0
        self._ejected_until = None

    def report(self, load: LoadReport, now: float) -> None:
        self.load = load
        self.resume_key = load.resume_key
        self._in_flight_of_others = max(0, load.running + load.waiting - self.in_flight)
        if self._ejected_until is not None and now >= self._ejected_until:
            self._ejected_until = None
            self.errors_in_a_row = 0
        for attempt in self._attempts:
            if now - attempt.heard_at > attempt.patience_seconds:
                attempt.end(AttemptFailed("stalled"))

    def note_draining(self, now: float) -> None:
        """Start the clock of the drain, or stop it where a drain was called off."""
        if not self.is_draining:
            self.draining_since = None
        elif self.draining_since is None:
            self.draining_since = now

    def disconnected(self) -> None:
        """`/load` closed: not chosen until the next report; what runs there may yet finish."""
        self.load = None

    def died(self) -> None:
        """`/load` stayed silent: every attempt there ends now."""
        self.load = None
        for attempt in self._attempts:
            attempt.end(AttemptFailed("fell silent"))

    def failed(self, now: float) -> None:
        """An attempt broke. Ejected 1 s, twice as long each time; a crowd of failures is one."""
        if self._ejected_until is None:
            pause_seconds = min(MAX_EJECTION_SECONDS, 2.0**self._failures)
            self._ejected_until = now + pause_seconds
            self._failures += 1

    def answered(self, status: int) -> None:
        """An attempt came to its end."""
        if status >= INTERNAL_ERROR:
            self.errors_in_a_row += 1
        else:
            self._failures = self.errors_in_a_row = 0

    @contextlib.asynccontextmanager
    async def attempt(self) -> AsyncIterator[Attempt]:
        """An attempt's life. Raises AttemptFailed when it was ended from outside."""
        try:
            async with asyncio.timeout(None) as life:
                attempt = Attempt(life)
                self._attempts.add(attempt)
                try:
                    yield attempt
                finally:
                    self._attempts.discard(attempt)
        except TimeoutError as error:
            raise attempt.failure from error

    def state(self) -> GroupState:
        return GroupState(
            admitted=self.is_admitted,
            in_flight=self.in_flight,
            waiting=self.load.waiting if self.load else 0,
            running=self.load.running if self.load else 0,
        )
