"""Which group gets a request: the one that would be through with its work first.

Pure: groups and a wish in, a group or None out. The policy is least work left: queued prompt
tokens over prefill speed, plus the requests inside at a typical length over decode speed. A prompt
whose beginning may be cached in its home goes there while the prefill it saves is worth the longer
wait. Equal hardware is taken to be equally fast: speeds are the best seen among groups of one
resume key, because an idle group's own last figure says how idle it was, not how fast it can be.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openinference_router.affinity import Affinity, home
from openinference_router.group import Group
from openinference_router.wire import FULL_WEIGHT

TYPICAL_COMPLETION_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request asks of a group."""

    draw: float = 0.0
    """In [0, 1): decides among revisions whose weights differ; constant over a request's life."""
    affinity: Affinity | None = None
    """Draws the request to one group, as far as loads allow."""
    resume_key: str | None = None
    """Set for a cut stream: only a group that would draw the same tokens can go on with it."""
    avoid: frozenset[str] = field(default=frozenset())
    """Groups that failed this request; taken again only when there is no other."""

    def is_met_by(self, group: Group) -> bool:
        return self.resume_key is None or self.resume_key == group.resume_key


@dataclass(frozen=True, slots=True)
class _Speed:
    """Tokens per second; 0 is unknown."""

    prefill: float = 0.0
    decode: float = 0.0


def choose(groups: Iterable[Group], wish: Wish) -> Group | None:
    """The admitted group with room that suits `wish` best; None when there is none."""
    admitted = [group for group in groups if group.is_admitted and wish.is_met_by(group)]
    candidates = [group for group in _of_drawn_revision(admitted, wish) if group.has_room]
    if not candidates:
        return None
    preferred = [group for group in candidates if group.id not in wish.avoid] or candidates
    speeds = _speeds(admitted)
    work = {group.id: _work_seconds(group, speeds) for group in preferred}
    least = min(preferred, key=lambda group: (work[group.id], group.id))
    if wish.affinity is None:
        return least
    drawn_to = home(preferred, wish.affinity.key)
    saved_seconds = _prefill_seconds(wish.affinity.prompt_tokens, speeds[drawn_to.resume_key])
    return drawn_to if work[drawn_to.id] - saved_seconds <= work[least.id] else least


def _of_drawn_revision(admitted: list[Group], wish: Wish) -> list[Group]:
    """Shares are exact, so a full revision is waited for; a cut stream goes on where it can."""
    if wish.resume_key is not None:
        return admitted
    revision = draw_revision(admitted, wish.draw)
    return [group for group in admitted if revision in (None, group.routed.revision)]


def draw_revision(groups: Sequence[Group], draw: float) -> str | None:
    """The revision that `draw` falls on; None where weights do not decide.

    A revision's share is the sum of the weights of its admitted groups. While each has the full
    weight, or none has any, the load decides.
    """
    if all(group.routed.weight == FULL_WEIGHT for group in groups):
        return None
    shares: dict[str, int] = {}
    for group in groups:
        shares[group.routed.revision] = shares.get(group.routed.revision, 0) + group.routed.weight
    mark = draw * sum(shares.values())
    for revision, share in sorted(shares.items()):
        if mark < share:
            return revision
        mark -= share
    return None


def _speeds(groups: Iterable[Group]) -> dict[str, _Speed]:
    best: dict[str, _Speed] = {}
    for group in groups:
        if group.load is not None:
            seen = best.get(group.resume_key, _Speed())
            best[group.resume_key] = _Speed(
                max(seen.prefill, group.load.prefill_tokens_per_second),
                max(seen.decode, group.load.decode_tokens_per_second),
            )
    return best


def _work_seconds(group: Group, speeds: dict[str, _Speed]) -> float:
    speed = speeds[group.resume_key]
    decode = speed.decode or max(other.decode for other in speeds.values()) or 1.0
    decode_seconds = group.occupancy * TYPICAL_COMPLETION_TOKENS / decode
    return _prefill_seconds(group.queued_tokens, speed) + decode_seconds


def _prefill_seconds(tokens: float, speed: _Speed) -> float:
    """Nothing before a speed was measured, but for a session, which stays whatever it saves."""
    if tokens == math.inf:
        return tokens
    return tokens / speed.prefill if speed.prefill else 0.0
