"""How far a canary goes: step by step, as far as what was measured lets it; pure.

A step gives w of a hundred requests to the new revision. With R replicas wanted it has

    fresh = ceil(R * w / 100)            groups of the new revision
    old   = ceil(R * (100 - w) / 100)    groups of the last good one, which are kept or made

so both sides can carry their share, and R + 1 is always enough. A step is *reached* when all its
fresh groups are routable; only then do routers send the share of the step, until then that of the
step before. The next step begins when the pause is over and the analysis is content. What cannot
be measured holds the canary where it is: no news is not good news.

The place is kept as an annotation on the ControllerRevision, so that a new leader goes on from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from openinference_operator import timestamps
from openinference_operator.rollout import Split
from openinference_operator.rollout_spec import CanaryStep

FULL_WEIGHT = 100
LARGEST_SHARED_WEIGHT = 99  # where all groups have the full weight, routers go by load alone


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the analysis says of the new revision; content when nothing `failed` or is `missing`."""

    seen: str = ""
    failed: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """How many steps are done, and when the present one was reached; None before."""

    done: int = 0
    reached_at: float | None = None

    @staticmethod
    def from_text(text: str) -> "Place":
        """Read the annotation; an empty one is the beginning."""
        done, _, reached_at = text.partition(",")
        return Place(int(done or 0), timestamps.from_text(reached_at) if reached_at else None)

    def to_text(self) -> str:
        """Write the annotation."""
        reached_at = [] if self.reached_at is None else [timestamps.to_text(self.reached_at)]
        return ",".join([str(self.done), *reached_at])


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a canary stands now. `weight`: the share of requests for the new revision, in percent.

    `ends_at`: when the pause is over; None before the step is reached and after the last one.
    """

    place: Place
    split: Split
    weight: int
    ends_at: float | None

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done, so that the rest is a rolling update."""
        return self.weight == FULL_WEIGHT


def next_stage(
    steps: Sequence[CanaryStep],
    place: Place,
    replicas: int,
    num_routable: int,
    verdict: Verdict,
    now: float,
) -> Stage:
    """Go on by one transition at most. `num_routable`: routable groups of the new revision."""
    return _stage(steps, _next_place(steps, place, replicas, num_routable, verdict, now), replicas)


def stage_at(steps: Sequence[CanaryStep], place: Place, replicas: int) -> Stage:
    """Stay at a place, because the rollout is paused."""
    return _stage(steps, place, replicas)


def group_weights(weight: int, num_fresh: int, num_old: int) -> tuple[int, int]:
    """Weights of one fresh and of one old group, so that all fresh ones together get `weight` %.

    Of two weights that are larger than routers take, both shrink alike.
    """
    fresh, old = weight * max(1, num_old), (FULL_WEIGHT - weight) * max(1, num_fresh)
    largest = max(fresh, old, LARGEST_SHARED_WEIGHT)
    return _scaled(fresh, largest), _scaled(old, largest)


def _scaled(weight: int, largest: int) -> int:
    return max(1, round(weight * LARGEST_SHARED_WEIGHT / largest)) if weight else 0


def _next_place(
    steps: Sequence[CanaryStep],
    place: Place,
    replicas: int,
    num_routable: int,
    verdict: Verdict,
    now: float,
) -> Place:
    if place.done >= len(steps) or replicas == 0:
        return place
    step = steps[place.done]
    if place.reached_at is None:
        is_reached = num_routable >= _split(step.weight, replicas).fresh
        return replace(place, reached_at=now) if is_reached else place
    is_content = not verdict.failed and not verdict.missing
    if now >= place.reached_at + step.pause_seconds and is_content:
        return Place(place.done + 1)
    return place


def _stage(steps: Sequence[CanaryStep], place: Place, replicas: int) -> Stage:
    if place.done >= len(steps):
        return Stage(place, Split(replicas, 0), FULL_WEIGHT, None)
    step = steps[place.done]
    split = _split(step.weight, replicas)
    if place.reached_at is None:
        before = steps[place.done - 1].weight if place.done else 0
        return Stage(place, split, before, None)
    return Stage(place, split, step.weight, place.reached_at + step.pause_seconds)


def _split(weight: int, replicas: int) -> Split:
    return Split(-(-replicas * weight // 100), -(-replicas * (100 - weight) // 100))
