"""How long requests wait for their first step. The scheduler has no clock, so it is kept here."""

from __future__ import annotations

from openinference_engine.step import Step


class QueueClock:
    """All times in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._entered: dict[str, float] = {}
        self._waited: dict[str, float] = {}

    def enter(self, request_id: str, now: float) -> None:
        self._entered[request_id] = now

    def note(self, step: Step, now: float) -> None:
        """The requests of this step have left the queue."""
        for chunk in step.chunks:
            entered = self._entered.pop(chunk.request_id, None)
            if entered is not None:
                self._waited[chunk.request_id] = now - entered

    def take_seconds(self, request_id: str) -> float:
        """How long it waited; told once, then 0."""
        return self._waited.pop(request_id, 0.0)

    def leave(self, request_id: str) -> None:
        self._entered.pop(request_id, None)
        self._waited.pop(request_id, None)
