"""When a core counts as stuck: by the time its step takes, not by what was before it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from openinference_engine.core.heartbeat import Heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_idle_time_is_not_held_against_the_step_that_follows(clock: Clock, tmp_path: Path) -> None:
    """Regression: idle for up to four seconds, a core had one left for its first step; on a busy
    machine it was called stuck, and a request that came meanwhile was refused with 503.
    """
    core, api = Heartbeat(tmp_path / "beat"), Heartbeat(tmp_path / "beat")
    core.beat(1)
    clock.now += 4
    core.expect(0.1)
    clock.now += 4
    assert not api.is_stuck
    clock.now += 2
    assert (api.is_stuck, api.is_hung) == (True, False)


def test_step_may_take_ten_times_what_was_predicted(clock: Clock, tmp_path: Path) -> None:
    core, api = Heartbeat(tmp_path / "beat"), Heartbeat(tmp_path / "beat")
    core.expect(2.0)
    clock.now += 19
    assert not api.is_stuck
    clock.now += 2
    assert api.is_stuck
    core.beat(7)
    assert (api.is_stuck, api.num_steps, api.age_seconds) == (False, 7, 0.0)


def test_core_hangs_when_it_stays_stuck(clock: Clock, tmp_path: Path) -> None:
    core = Heartbeat(tmp_path / "beat")
    core.expect(0.0)
    clock.now += 21
    assert core.is_hung


def test_number_that_is_being_written_is_never_seen_half(tmp_path: Path) -> None:
    """Regression: numbers were cleared before they were written. Who looked between saw the core
    still since the machine started: requests were refused with 503, about one in a thousand, and
    the watchdog might have killed a core at work.
    """
    heartbeat = Heartbeat(tmp_path / "beat")
    code = (
        "import sys, pathlib; from openinference_engine.core.heartbeat import Heartbeat\n"
        "core = Heartbeat(pathlib.Path(sys.argv[1]))\n"
        "while True: core.expect(0.1); core.beat(7)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "beat"]) as core:
        while heartbeat.num_steps == 0:
            time.sleep(0.01)
        stuck = sum(heartbeat.is_stuck or heartbeat.num_steps != 7 for _ in range(300_000))
        core.kill()
    assert stuck == 0
