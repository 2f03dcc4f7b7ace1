"""What a start consists of: stages one after another, for the log and /metrics."""

from __future__ import annotations

import time


class Timeline:
    def __init__(self, started: float) -> None:
        """started: on the monotonic clock."""
        self.seconds: dict[str, float] = {}
        self._since = started

    def end(self, stage: str) -> None:
        """A stage ends now; it began where the one before it ended."""
        now = time.monotonic()
        self.seconds[stage] = now - self._since
        self._since = now
