"""Where a step's time goes: the host's own work, each kernel's, and the gaps between."""

from __future__ import annotations

import re
import time
from collections import Counter
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
    """Of the second half of a run, in microseconds; `gaps`: the longest first.

    by_kernel: from the end of what ended before it, waiting included, to its own end.
    """

    span: float
    busy: float
    gaps: list[float] = field(repr=False)
    by_kernel: Counter[str] = field(repr=False)
    calls: Counter[str] = field(repr=False)

    @property
    def idle_share(self) -> float:
        return 1 - self.busy / self.span

    def table(self, least_share: float = 0.01) -> str:
        """A line for each kernel that takes that share of the time, the longest first."""
        return "\n".join(
            f"{time / self.span:6.1%} {time / self.calls[name]:8.1f} us × {self.calls[name]} {name}"
            for name, time in self.by_kernel.most_common()
            if time >= least_share * self.span
        )


def device_time(run: Callable[[], object]) -> DeviceTime:
    """What CUPTI saw of the kernels and copies of a run, from its middle on."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        run()
    torch.cuda.synchronize()
    events = (event for event in trace.events() if event.device_type.name == "CUDA")
    intervals = sorted(
        (event.time_range.start, event.time_range.end, event.name) for event in events
    )
    intervals = intervals[len(intervals) // 2 :]
    first, end, _ = intervals[0]
    gaps = []
    by_kernel, calls = Counter[str](), Counter[str]()
    for start, last, name in intervals[1:]:
        by_kernel[_short(name)] += max(last - end, 0)
        calls[_short(name)] += 1
        if start > end:
            gaps.append(start - end)
        end = max(end, last)
    gaps.sort(reverse=True)
    return DeviceTime(end - first, end - first - sum(gaps), gaps, by_kernel, calls)


def _short(name: str) -> str:
    """A kernel's own name, and what it does to its sums."""
    function = re.search(r"(\w+)[<(]", name)
    epilogues = re.findall(r"\w+Epilogue", name)
    return " ".join([function[1] if function else name, *dict.fromkeys(epilogues)])
