"""A time by which something is to have happened, and how long that was, for whoever tells of it."""

from __future__ import annotations

import time


class Deadline:
    def __init__(self, seconds: float) -> None:
        """seconds: from now on."""
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left_seconds(self) -> float:
        """0 when it is over."""
        return max(self._at - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        return self.left_seconds == 0
