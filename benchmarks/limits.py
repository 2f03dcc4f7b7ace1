"""What the device can do at best, measured in the run whose results are compared with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds_of(action: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Median time of a call, by device events where there is a GPU, after two warm-up calls."""
    action()
    action()
    if device.type == "cpu":
        return statistics.median(_wall_seconds(action) for _ in range(repeats))
    begins, ends = ([_timing_event() for _ in range(repeats)] for _ in range(2))
    for begin, end in zip(begins, ends, strict=True):
        begin.record()
        action()
        end.record()
    torch.cuda.synchronize()
    times: list[float] = [begin.elapsed_time(end) for begin, end in zip(begins, ends, strict=True)]
    return statistics.median(times) / 1000


def copy_bytes_per_second(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written by a copy in device memory; `num_bytes` must exceed its caches."""
    source = torch.empty(num_bytes // 2, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    return num_bytes / seconds_of(lambda: target.copy_(source), device)


def pinned_bytes_per_second(device: torch.device, num_bytes: int) -> float:
    """A copy from pinned memory of the host to the device."""
    source = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    return num_bytes / seconds_of(lambda: target.copy_(source, non_blocking=True), device, 5)


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _wall_seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
