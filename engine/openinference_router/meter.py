"""How fast one service answers, as its clients see it: tokens, time to the first, time per token.

Counts only grow, so that Prometheus and the dashboard's own history read the same numbers and each
takes the difference over the window it wants. Pure arithmetic; who measures passes seconds in.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import Self

FIRST_TOKEN_SECONDS = (
    *(0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0),
    *(5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""From the arrival at the router: waiting for a seat, or for a replica from zero, is part of it."""

TOKEN_SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Buckets:
    """A histogram: how many observations were at most so many seconds, and beyond the last bound.

    `counts` is one longer than `bounds` and not cumulative.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.sum_seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Upper bounds as text with all observations up to them, as Prometheus wants them."""
        labels = [*map(str, self.bounds), "+Inf"]
        return list(zip(labels, map(float, itertools.accumulate(self.counts)), strict=True))


class Meter:
    """What one service's answers have shown at this router so far."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.first_token = Buckets(FIRST_TOKEN_SECONDS)
        self.per_token = Buckets(TOKEN_SECONDS)


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value below which `share` (0–1) of the observations lie; None without any.

    Linear inside a bucket and never beyond the last bound, as PromQL's histogram_quantile, so that
    both sources of the dashboard's history draw the same line.
    """
    wanted = share * sum(counts)
    if wanted == 0:
        return None
    lower, passed = 0.0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and passed + count >= wanted:
            return lower + (upper - lower) * (wanted - passed) / count
        lower, passed = upper, passed + count
    return bounds[-1]


class Stopwatch:
    """The tokens of one answer as they go to the client; times on one monotonic clock.

    Left as a context when no more will come: what came after the first tokens then says how long
    each one took.
    """

    def __init__(self, meter: Meter, arrived_at: float) -> None:
        self._meter = meter
        self._arrived_at = arrived_at
        self._first_at = 0.0
        self.last_at = 0.0
        """When the client got the last token so far."""
        self._num_first = 0
        self._num_tokens = 0

    @property
    def seconds_per_token(self) -> float:
        """After the first tokens; infinite before there are any."""
        num_later = self._num_tokens - self._num_first
        return (self.last_at - self._first_at) / num_later if num_later else math.inf

    def streamed(self, num_tokens: int, now: float) -> None:
        """The client has `num_tokens` of the answer by now; the same again changes nothing."""
        if num_tokens <= self._num_tokens:
            return
        if self._num_tokens == 0:
            self._first_at, self._num_first = now, num_tokens
            self._meter.first_token.observe(now - self._arrived_at)
        self._meter.num_tokens += num_tokens - self._num_tokens
        self._num_tokens, self.last_at = num_tokens, now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._num_tokens > self._num_first:
            self._meter.per_token.observe(self.seconds_per_token)
