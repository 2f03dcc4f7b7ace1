"""Where a step's time goes: the host's own work, and how long the device waits between kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from openinference_engine.launches import Flight
from torch.profiler import ProfilerActivity, profile


@dataclass(slots=True)
class Waiting:
    """Seconds that the host has waited for tokens to land."""

    seconds: float = 0.0


@contextmanager
def waiting_for_tokens() -> Iterator[Waiting]:
    waiting, land = Waiting(), Flight.land

    def timed(flight: Flight) -> list[int]:
        started = time.perf_counter()
        if flight.arrival is not None:
            flight.arrival.synchronize()
        waiting.seconds += time.perf_counter() - started
        return land(flight)

    Flight.land = timed  # type: ignore[assignment, method-assign]
    try:
        yield waiting
    finally:
        Flight.land = land  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Of the second half of a run, in microseconds; `gaps`: the longest first."""

    span: float
    busy: float
    gaps: list[float] = field(repr=False)

    @property
    def idle_share(self) -> float:
        return 1 - self.busy / self.span


def device_time(run: Callable[[], object]) -> DeviceTime:
    """What CUPTI saw of the kernels and copies of a run, from its middle on."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        run()
    events = (event for event in trace.events() if event.device_type.name == "CUDA")
    intervals = sorted((event.time_range.start, event.time_range.end) for event in events)
    intervals = intervals[len(intervals) // 2 :]
    first, end = intervals[0]
    gaps = []
    for start, last in intervals[1:]:
        if start > end:
            gaps.append(start - end)
        end = max(end, last)
    torch.cuda.synchronize()
    return DeviceTime(end - first, end - first - sum(gaps), sorted(gaps, reverse=True))
