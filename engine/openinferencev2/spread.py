"""How some durations are spread: as percentiles, and as a line of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some durations, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float


def spread(durations: Sequence[float]) -> Spread | None:
    """Percentiles by nearest rank; None of nothing."""
    if not durations:
        return None
    ranked = sorted(durations)

    def at(share: float) -> float:
        return ranked[math.ceil(share * len(ranked)) - 1]

    return Spread(sum(ranked) / len(ranked), at(0.5), at(0.95), at(0.99))


def histogram(durations: Sequence[float], width: int = 40) -> str:
    """How durations are spread, as a line of bars from the smallest to the largest."""
    low, high = min(durations), max(durations)
    counts = [0] * width
    for duration in durations:
        share = (duration - low) / (high - low) if high > low else 0.0
        counts[min(width - 1, int(share * width))] += 1
    top = max(counts)
    return "".join(BARS[round(count / top * (len(BARS) - 1))] if count else " " for count in counts)


def plot(name: str, durations: Sequence[float], width: int) -> str:
    """`TTFT  84.1 ms ▂▅█▃  119.1 ms`: how many were how long, between the extremes."""
    low, high = (f"{1000 * edge:.1f} ms" for edge in (min(durations), max(durations)))
    return f"{name}  {low} {histogram(durations, max(1, width))} {high}"
