"""Which group gets a request: the one that would be through with its work first.

Pure: groups and a wish in, a group or None out. The policy is least work left: queued prompt
tokens over prefill speed, plus the requests inside at a typical length over decode speed. Equal
hardware is taken to be equally fast: speeds are the best seen among groups of one resume key,
because an idle group's own last figure says how idle it was, not how fast it can be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openinference_router.group import Group

TYPICAL_COMPLETION_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request asks of a group."""

    draw: float = 0.0
    """In [0, 1): decides among revisions whose weights differ; constant over a request's life."""
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
    """The admitted group with room that has the least work left; None when there is none."""
    admitted = [group for group in groups if group.is_admitted and wish.is_met_by(group)]
    candidates = [group for group in admitted if group.has_room]
    if not candidates:
        return None
    revision = draw_revision(admitted, wish.draw)
    preferred = [group for group in candidates if group.routed.revision == revision] or candidates
    preferred = [group for group in preferred if group.id not in wish.avoid] or preferred
    speeds = _speeds(admitted)
    return min(preferred, key=lambda group: (_work_seconds(group, speeds), group.id))


def draw_revision(groups: Sequence[Group], draw: float) -> str | None:
    """The revision that `draw` falls on, by weight; None while all weights are equal."""
    if len({group.routed.weight for group in groups}) < 2:
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
    prefill_seconds = group.queued_tokens / speed.prefill if speed.prefill else 0.0
    return prefill_seconds + group.occupancy * TYPICAL_COMPLETION_TOKENS / decode
