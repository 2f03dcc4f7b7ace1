"""The line in front of a service: who waits, in which order.

A ticket is one wait and then one seat. Order is by rank: the class first, then arrival; a request
that comes back after a failed attempt keeps its rank, so it stands before all that came later.
"""

import asyncio
import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from openinference_router.budgets import Spent
from openinference_router.choice import Wish
from openinference_router.group import Group

Rank = tuple[int, int]
"""(class, arrival number): smaller goes first."""


@dataclass(slots=True, eq=False)
class Ticket:
    rank: Rank
    wish: Wish
    waiting_since: Spent
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
    """Tickets sorted by rank."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(tuple(self._tickets))

    def enter(self, ticket: Ticket) -> None:
        bisect.insort(self._tickets, ticket, key=_rank)
        ticket.is_in_line = True

    def leave(self, ticket: Ticket) -> None:
        del self._tickets[bisect.bisect_left(self._tickets, ticket.rank, key=_rank)]
        ticket.is_in_line = False


def _rank(ticket: Ticket) -> Rank:
    return ticket.rank
