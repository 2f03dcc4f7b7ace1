"""What requests wish of a group as they arrive: to be where their session is, or the beginning of
their prompt, and their draw among revisions.
"""

import math
from collections.abc import Mapping

import msgspec

from openinference_router import affinity
from openinference_router.choice import Wish
from openinference_router.wire import PREFIX_AWARE, BalancingPolicy

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Steps of this size spread over [0, 1) more evenly than chance: canary shares hold at once."""


class Wishes:
    """Of one service, whose requests draw in turn."""

    def __init__(self) -> None:
        self._draw = 0.0

    def next(
        self,
        fields: Mapping[str, msgspec.Raw],
        headers: Mapping[str, str],
        balancing: BalancingPolicy,
        num_groups: int,
    ) -> Wish:
        """The wish of one request, by its raw fields and its headers."""
        if session := headers.get(balancing.session_header) if balancing.session_header else None:
            drawn = affinity.of_session(session)
            return Wish(draw=drawn.draw, affinity=drawn)
        self._draw = math.fmod(self._draw + GOLDEN_RATIO, 1)
        if balancing.algorithm == PREFIX_AWARE and num_groups > 1:
            return Wish(draw=self._draw, affinity=affinity.of_prompt(fields))
        return Wish(draw=self._draw)
