"""One replica as this router sees it: routed by the operator, reporting its load, maybe ejected.

Owns what is counted here (requests in flight, failures) and what was last heard. Knows no sockets
and no clock: `load` and `proxy` tell it what happened and when. A group that fell silent ends its
attempts at once, so that their requests go on elsewhere.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from openinference_router.errors import AttemptFailed
from openinference_router.wire import GroupState, LoadReport, RoutedGroup

MAX_EJECTION_SECONDS = 30.0


def look_ahead(seats: int) -> int:
    """How many requests may wait inside an engine, so that a freed seat is taken at once."""
    return max(1, seats // 8)


class Group:
    """Mutable; all transitions are methods. Times are seconds of one monotonic clock."""

    def __init__(self, routed: RoutedGroup) -> None:
        self.routed = routed
        self.load: LoadReport | None = None
        self.resume_key = ""
        self.in_flight = 0
        self._in_flight_of_others = 0
        self._failures = 0
        self._ejected_until: float | None = None
        self._attempts: set[asyncio.Timeout] = set()

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
            and self._ejected_until is None
        )

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
        self._failures = 0
        self._ejected_until = None

    def report(self, load: LoadReport, now: float) -> None:
        self.load = load
        self.resume_key = load.resume_key
        self._in_flight_of_others = max(0, load.running + load.waiting - self.in_flight)
        if self._ejected_until is not None and now >= self._ejected_until:
            self._ejected_until = None

    def disconnected(self) -> None:
        """`/load` closed: not chosen until the next report; what runs there may yet finish."""
        self.load = None

    def died(self) -> None:
        """`/load` stayed silent: every attempt there ends now."""
        self.load = None
        for attempt in self._attempts:
            attempt.reschedule(0.0)

    def failed(self, now: float) -> None:
        """An attempt broke. Ejected 1 s, twice as long each time; a crowd of failures is one."""
        if self._ejected_until is None:
            pause_seconds = min(MAX_EJECTION_SECONDS, 2.0**self._failures)
            self._ejected_until = now + pause_seconds
            self._failures += 1

    def succeeded(self) -> None:
        self._failures = 0

    @contextlib.asynccontextmanager
    async def attempt(self) -> AsyncIterator[asyncio.Timeout]:
        """An attempt's life, ended when the group dies or when its own deadline passes.

        Raises AttemptFailed then; a stalled stream alone does not make the group a broken one.
        """
        try:
            async with asyncio.timeout(None) as life:
                self._attempts.add(life)
                try:
                    yield life
                finally:
                    self._attempts.discard(life)
        except TimeoutError as error:
            raise AttemptFailed("fell silent", is_broken=self.load is None) from error

    def state(self) -> GroupState:
        return GroupState(
            admitted=self.is_admitted,
            in_flight=self.in_flight,
            waiting=self.load.waiting if self.load else 0,
            running=self.load.running if self.load else 0,
        )
