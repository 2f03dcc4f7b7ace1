from __future__ import annotations

import os
from pathlib import Path

import pytest
from openinference_engine.limits import memory_limit_bytes, processor_limit

MACHINE_PROCESSORS = len(os.sched_getaffinity(0))
MACHINE_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE_PROCESSORS),
        ({"cpu.max": "max 100000"}, MACHINE_PROCESSORS),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, MACHINE_PROCESSORS),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, MACHINE_PROCESSORS),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_threads_follow_the_quota(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    write(tmp_path, files)
    assert processor_limit(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE_BYTES),
        ({"memory.max": "max"}, MACHINE_BYTES),
        ({"memory.max": "1048576"}, 1 << 20),
        ({"memory/memory.limit_in_bytes": "2097152"}, 2 << 20),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE_BYTES),
    ],
)
def test_memory_follows_the_limit(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    write(tmp_path, files)
    assert memory_limit_bytes(tmp_path) == expected


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
