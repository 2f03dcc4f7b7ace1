"""The core's pulse in shared memory: when the last step ended and how long the next may take.

A file mapped by both processes, because a core that hangs in a step sends no messages. The age is
measured on the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

_LAYOUT = struct.Struct("<Qdd")  # steps done, time of the last end, predicted seconds of the next
_MIN_STUCK_SECONDS = 5.0
_SLOWER_THAN_PREDICTED = 10.0
_HUNG_FACTOR = 4.0  # a stuck core takes no requests; it is ended when it stays stuck


class Heartbeat:
    def __init__(self, path: Path) -> None:
        """Maps the file, made by whoever comes first."""
        if not path.exists():
            path.write_bytes(_LAYOUT.pack(0, time.monotonic(), 0.0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)

    def expect(self, predicted_seconds: float) -> None:
        """Core: a step begins."""
        struct.pack_into("<d", self._map, 16, predicted_seconds)

    def beat(self, num_steps: int) -> None:
        """Core: a step ended."""
        struct.pack_into("<Qd", self._map, 0, num_steps, time.monotonic())

    @property
    def num_steps(self) -> int:
        return int(_LAYOUT.unpack_from(self._map)[0])

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - float(_LAYOUT.unpack_from(self._map)[1])

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
        predicted = float(_LAYOUT.unpack_from(self._map)[2])
        return max(_MIN_STUCK_SECONDS, _SLOWER_THAN_PREDICTED * predicted)
