"""The line in front of a service: who waits, and who is next.

Between classes priority is strict, with ageing: a request that has waited AGEING_SECONDS longer
stands with the class above. Inside a class keys take turns (start-time fair queueing, Goyal et
al. 1996), so that one key's thousand requests delay another key's single one by one at most.
Inside a key, and where there are no keys, order is that of arrival.

A ticket is one wait and then one seat. A request that comes back after a failed attempt keeps its
rank, so it stands before all that came later.
"""

import asyncio
import bisect
import heapq
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from openinference_router.budgets import Spent
from openinference_router.choice import Wish
from openinference_router.group import Group

AGEING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request waits: an API key's name and its class, 0 being served first."""

    key: str = ""
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Rank:
    """A request's standing for its whole life. `turn` counts its key's requests, in turns."""

    caller: Caller
    turn: int
    number: int
    arrived_at: float
    deadline_at: float = math.inf
    """Nobody waits for the answer to a request that has no seat by then."""

    @property
    def in_class(self) -> tuple[int, int]:
        return self.turn, self.number

    @property
    def aged_arrival(self) -> float:
        return self.arrived_at + self.caller.priority * AGEING_SECONDS


@dataclass(slots=True, eq=False)
class Ticket:
    rank: Rank
    wish: Wish
    waiting_since: Spent
    deadline_at: float = math.inf
    """Of a first wait: a stream that has begun and was cut is not given up for being late."""
    group: Group | None = None
    is_in_line: bool = False
    granted: asyncio.Event = field(default_factory=asyncio.Event)

    def grant(self, group: Group) -> None:
        """Take a seat in `group`; given back by `release`."""
        group.in_flight += 1
        self.group = group
        self.granted.set()

    def release(self) -> None:
        if self.group is not None:
            self.group.in_flight -= 1
            self.group = None


class WaitingLine:
    """Tickets by class, each class in the order of turns."""

    def __init__(self) -> None:
        self._classes: defaultdict[int, _FairLine] = defaultdict(_FairLine)
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(len(line.tickets) for line in self._classes.values())

    def __iter__(self) -> Iterator[Ticket]:
        """Who would be next, then who after that; a copy, so tickets may leave meanwhile."""
        lines = [tuple(line.tickets) for line in self._classes.values()]
        return heapq.merge(*lines, key=lambda ticket: ticket.rank.aged_arrival)

    def rank(self, caller: Caller, now: float, patience_seconds: float = math.inf) -> Rank:
        """The standing of a request that arrives now."""
        self._arrivals += 1
        turn = self._classes[caller.priority].next_turn(caller.key)
        return Rank(caller, turn, self._arrivals, now, now + patience_seconds)

    def enter(self, ticket: Ticket) -> None:
        self._classes[ticket.rank.caller.priority].enter(ticket)
        ticket.is_in_line = True

    def leave(self, ticket: Ticket) -> None:
        """Out of the line, with a seat or without."""
        self._classes[ticket.rank.caller.priority].leave(ticket)
        ticket.is_in_line = False

    def serve(self, ticket: Ticket, group: Group) -> None:
        """Out of the line and into a seat."""
        self._classes[ticket.rank.caller.priority].note_turn(ticket.rank.turn)
        self.leave(ticket)
        ticket.grant(group)


class _FairLine:
    """One class. A key's next turn is one after its last, or the present one if that is later.

    Turns only grow: a request that comes back must find its rank still meaning what it meant.
    """

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self._turn = 0
        self._next_turns: dict[str, int] = {}

    def next_turn(self, key: str) -> int:
        turn = max(self._turn, self._next_turns.get(key, 0))
        self._next_turns[key] = turn + 1
        return turn

    def enter(self, ticket: Ticket) -> None:
        bisect.insort(self.tickets, ticket, key=_in_class)

    def leave(self, ticket: Ticket) -> None:
        del self.tickets[bisect.bisect_left(self.tickets, ticket.rank.in_class, key=_in_class)]
        if not self.tickets:  # nobody waits: who had how many turns counts no more
            self._turn = max(self._next_turns.values(), default=self._turn)
            self._next_turns.clear()

    def note_turn(self, turn: int) -> None:
        self._turn = max(self._turn, turn)


def _in_class(ticket: Ticket) -> tuple[int, int]:
    return ticket.rank.in_class
