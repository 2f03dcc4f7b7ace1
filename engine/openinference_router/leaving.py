"""Which streams leave a group before it goes: those that it would not finish. Pure.

A group goes at the end of its drain; one whose process reports but whose engine does not get on
counts as gone. Streams leave only while another group has a seat for them: until then they are
served where they are.
"""

import math
from collections.abc import Iterable

from openinference_router.choice import Wish
from openinference_router.group import Attempt, Group

MARGIN_SECONDS = 5.0
"""Streams that would end this shortly before the drain's end leave too: forecasts are rough."""


def leaving(
    group: Group, groups: Iterable[Group], drain_seconds: float, now: float
) -> list[Attempt]:
    """The attempts in `group` that are better ended now; `drain_seconds`: how long a drain is."""
    goes_at = _goes_at(group, drain_seconds, now)
    if goes_at == math.inf:
        return []
    late = [each for each in group.attempts if each.can_move and each.end_at() > goes_at]
    return late[: _free_seats(group.resume_key, groups)] if late else []


def _goes_at(group: Group, drain_seconds: float, now: float) -> float:
    if group.is_stuck:
        return now
    if group.draining_since is None:
        return math.inf
    return group.draining_since + drain_seconds - MARGIN_SECONDS


def _free_seats(resume_key: str, groups: Iterable[Group]) -> int:
    """Where a stream that began under `resume_key` could go on."""
    wish = Wish(resume_key=resume_key)
    return sum(
        max(0, group.limit - group.occupancy)
        for group in groups
        if group.is_admitted and wish.is_met_by(group)
    )
