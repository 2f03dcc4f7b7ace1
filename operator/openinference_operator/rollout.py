"""The next step of a rollout or of a change of replicas: pure, from what is observed.

With R replicas wanted, S = maxSurge, U = maxUnavailable, and F fresh and K kept groups as the
split of the moment (R and 0; other numbers in a canary or a pause), per step:

    existing = groups that are not lost            (draining and deleted ones count until gone)
    fresh    = live groups of the target revision
    kept     = live groups of the last good revision
    restore  = max(0, min(K - kept, R + S - existing))
    create   = max(0, min(F - fresh, R + S - existing - restore))
    floor    = R - U                               (routable groups that must remain)
    budget   = routable - floor                    (routable groups that may go now)

To go are the fresh groups beyond F, the kept ones beyond K, and all others. Of these, groups that
never served (starting, or broken) go at once: nobody would miss them. Groups that serve go as far
as the budget reaches, least loaded first. Groups that served and are not routable just now may
come back, so they go only while the floor holds without them. Nothing that may serve is drained
while `routers_settled` is false, that is while some router's view is unknown or late.

A group goes in two steps, drained and then deleted. No step depends on how the state came about,
so a spec that changes midway, or an operator that dies, simply goes on from what is observed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from openinference_operator.rollout_spec import Rollout


class Phase(Enum):
    """Where a group is in its life."""

    STARTING = auto()  # has not passed its startup probe yet
    BROKEN = auto()  # will not start by waiting
    ROUTABLE = auto()  # every router sends requests to it
    UNROUTABLE = auto()  # served before, does not now
    DRAINING = auto()  # gets no new request
    DRAINED = auto()  # has nothing left to do, or no time left to do it
    DELETED = auto()  # its pods are ending
    LOST = auto()  # on a node that does not answer


LIVE = frozenset({Phase.STARTING, Phase.BROKEN, Phase.ROUTABLE, Phase.UNROUTABLE})
GOING_ORDER = (Phase.BROKEN, Phase.STARTING, Phase.UNROUTABLE, Phase.ROUTABLE)


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group as the rollout sees it. `load`: requests inside it."""

    name: str
    revision: str
    phase: Phase
    load: int = 0
    is_being_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers of the rollout, resolved for so many replicas."""

    replicas: int
    max_surge: int
    max_unavailable: int

    @property
    def floor(self) -> int:
        """Routable groups that a planned drain leaves."""
        return max(0, self.replicas - self.max_unavailable)


@dataclass(frozen=True, slots=True)
class Split:
    """How many groups of the target revision to have, and how many of the last good one."""

    fresh: int
    old: int


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: how many groups to create, which to drain, which to delete.

    `restore`: how many to create of the last good revision, beside a canary or while paused.
    """

    create: int
    drain: tuple[str, ...]
    delete: tuple[str, ...]
    restore: int = 0


def bounds(rollout: Rollout, replicas: int) -> Bounds:
    """Resolve percentages. Both rounded to zero would never move, so one may then be missing."""
    surge = rollout.max_surge.of(replicas, round_up=True)
    unavailable = rollout.max_unavailable.of(replicas, round_up=False)
    return Bounds(replicas, surge, 1 if surge == 0 and unavailable == 0 else unavailable)


def frozen(groups: Iterable[GroupState], target: str, replicas: int) -> Split:
    """The split of a paused rollout: what is of the target stays so, the rest stays old."""
    fresh = sum(group.phase in LIVE and group.revision == target for group in groups)
    return Split(min(fresh, replicas), max(0, replicas - fresh))


def next_step(
    groups: Sequence[GroupState],
    target: str,
    limits: Bounds,
    *,
    routers_settled: bool,
    split: Split | None = None,
    stable: str = "",
) -> Step:
    """Decide the next step towards `split`, which is `limits.replicas` groups of `target` if None.

    `stable`: the last good revision; while there is none, groups of any other count as kept.
    """
    split = split or Split(limits.replicas, 0)
    live = [group for group in groups if group.phase in LIVE]
    fresh = [group for group in live if group.revision == target]
    others = [group for group in live if group.revision != target]
    kept = [group for group in others if stable in ("", group.revision)]
    unwanted = [group for group in others if group not in kept]
    existing = sum(group.phase is not Phase.LOST for group in groups)
    room = max(0, limits.replicas + limits.max_surge - existing)
    restore = min(max(0, split.old - len(kept)), room) if stable else 0
    going = [
        *_in_going_order([*unwanted, *_surplus(kept, split.old)]),
        *_in_going_order(_surplus(fresh, split.fresh)),
    ]
    return Step(
        create=min(max(0, split.fresh - len(fresh)), room - restore),
        drain=_to_drain(going, live, limits, routers_settled),
        delete=tuple(
            group.name
            for group in groups
            if group.phase in (Phase.DRAINED, Phase.LOST) and not group.is_being_deleted
        ),
        restore=restore,
    )


def _surplus(groups: Iterable[GroupState], wanted: int) -> list[GroupState]:
    """The groups beyond so many, those that serve least."""
    ordered = _in_going_order(groups)
    return ordered[: max(0, len(ordered) - wanted)]


def _to_drain(
    candidates: Iterable[GroupState],
    live: Sequence[GroupState],
    limits: Bounds,
    routers_settled: bool,
) -> tuple[str, ...]:
    budget = sum(group.phase is Phase.ROUTABLE for group in live) - limits.floor
    chosen: list[str] = []
    for group in candidates:
        if group.phase in (Phase.STARTING, Phase.BROKEN):
            chosen.append(group.name)
        elif not routers_settled:
            continue
        elif group.phase is Phase.UNROUTABLE and budget >= 0:
            chosen.append(group.name)
        elif group.phase is Phase.ROUTABLE and budget > 0:
            chosen.append(group.name)
            budget -= 1
    return tuple(chosen)


def _in_going_order(groups: Iterable[GroupState]) -> list[GroupState]:
    """Those that serve least come first; names break ties, so that a repeated plan is equal."""
    return sorted(
        groups, key=lambda group: (GOING_ORDER.index(group.phase), group.load, group.name)
    )
