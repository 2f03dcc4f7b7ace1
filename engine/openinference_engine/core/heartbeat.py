"""The core's pulse in shared memory: when it last got on, and how long its step may take.

A file mapped by both processes, because a core that hangs in a step sends no messages. The age is
measured on the machine's monotonic clock, which all processes share. Each number is one aligned
word, written at once: `struct.pack_into` would clear it first, and a reader that came between saw a
core that had not moved since the machine started.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

_NUM_STEPS, _MOMENT, _PREDICTED = range(3)  # words: steps, moment, seconds
_BYTES = 3 * 8
_MIN_STUCK_SECONDS = 5.0
_SLOWER_THAN_PREDICTED = 10.0
_HUNG_FACTOR = 4.0  # a stuck core takes no requests; it is ended when it stays stuck


class Heartbeat:
    def __init__(self, path: Path) -> None:
        """Maps the file, made by whoever comes first."""
        is_new = not path.exists()
        if is_new:
            path.write_bytes(bytes(_BYTES))
        with path.open("r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), _BYTES))
        self._counts, self._seconds = words.cast("Q"), words.cast("d")
        if is_new:
            self._seconds[_MOMENT] = time.monotonic()

    def expect(self, predicted_seconds: float) -> None:
        """Core: a step begins. What was idle before it is not held against it."""
        self._seconds[_PREDICTED] = predicted_seconds
        self._seconds[_MOMENT] = time.monotonic()

    def beat(self, num_steps: int) -> None:
        """Core: a step ended."""
        self._counts[_NUM_STEPS] = num_steps
        self._seconds[_MOMENT] = time.monotonic()

    @property
    def num_steps(self) -> int:
        return self._counts[_NUM_STEPS]

    @property
    def age_seconds(self) -> float:
        """Since a step began or ended."""
        return time.monotonic() - self._seconds[_MOMENT]

    @property
    def is_stuck(self) -> bool:
        """A step takes far longer than predicted, or the idle self-probe does not come."""
        return self.age_seconds > self._patience_seconds

    @property
    def is_hung(self) -> bool:
        """The core will not come back: neither load nor a slow step explains its silence."""
        return self.age_seconds > _HUNG_FACTOR * self._patience_seconds

    @property
    def _patience_seconds(self) -> float:
        return max(_MIN_STUCK_SECONDS, _SLOWER_THAN_PREDICTED * self._seconds[_PREDICTED])
