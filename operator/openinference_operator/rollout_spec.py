"""`spec.rollout` as typed data: how a new revision replaces the old one."""

from dataclasses import dataclass

from openinference_operator.errors import SpecError
from openinference_operator.fields import Fields, Share, default


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a new revision replaces the old one."""

    max_surge: Share
    max_unavailable: Share
    drain_timeout_seconds: int
    progress_deadline_seconds: int


def parse_rollout(fields: Fields) -> Rollout:
    """Read spec.rollout."""
    surge = default(fields.share("maxSurge"), Share(1, is_percent=False))
    unavailable = default(fields.share("maxUnavailable"), Share(0, is_percent=False))
    if surge.value == 0 and unavailable.value == 0:
        raise SpecError(
            fields.at("maxSurge"), "is 0, and so is maxUnavailable; set one of them to 1"
        )
    return Rollout(
        max_surge=surge,
        max_unavailable=unavailable,
        drain_timeout_seconds=default(fields.duration_seconds("drainTimeout"), 600),
        progress_deadline_seconds=default(fields.duration_seconds("progressDeadline"), 1800),
    )
