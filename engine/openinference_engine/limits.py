"""What this process may use of the machine: processors and memory, as its cgroup limits them.

Reads cgroup v2 and v1 files; no limit means the whole machine. Container runtimes mount the
process's own cgroup at the root of the hierarchy, so the paths are fixed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def memory_limit_bytes(cgroup: Path = _CGROUP) -> int:
    """Bytes of memory that the container may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = (cgroup / "memory.max", cgroup / "memory/memory.limit_in_bytes")
    limits = [int(text) for path in files if (text := _read(path)).isdigit()]
    return min([machine, *limits])


def processor_limit(cgroup: Path = _CGROUP) -> int:
    """Threads that can compute at once: the affinity mask, cut by the quota, at least one."""
    available = len(os.sched_getaffinity(0))
    quota, period = _quota(cgroup)
    if quota is None:
        return available
    return max(1, min(available, math.ceil(quota / period)))


def _quota(cgroup: Path) -> tuple[float | None, float]:
    """Microseconds of processor time per period; None without a limit."""
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit():
        return float(quota), float(period)
    quota = _read(cgroup / "cpu/cpu.cfs_quota_us")
    if quota.isdigit():  # -1 means none
        return float(quota), float(_read(cgroup / "cpu/cpu.cfs_period_us"))
    return None, 1.0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
