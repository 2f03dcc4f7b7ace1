"""Keys that wait to be reconciled: each once, never two workers on one key, failures later.

A key that is added while it is worked on runs once more afterwards, so no change is missed. A
failed key comes back after a delay that doubles up to a minute; success forgets it.
"""

import asyncio
import random
from collections.abc import Hashable
from typing import Generic, TypeVar

from openinference_operator.metrics import QUEUE_DEPTH

Key = TypeVar("Key", bound=Hashable)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 60.0


class WorkQueue(Generic[Key]):
    """A queue of keys for several workers of one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Key, None] = {}
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._arrival = asyncio.Event()

    def add(self, key: Key) -> None:
        """Reconcile a key as soon as a worker is free."""
        if key in self._running:
            self._again.add(key)
            return
        self._waiting[key] = None
        self._arrival.set()
        QUEUE_DEPTH.set(len(self._waiting))

    def add_after(self, key: Key, delay_seconds: float) -> None:
        """Reconcile a key at some time; of several times asked for, the earliest holds."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + delay_seconds:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_later(delay_seconds, self._ring, key)

    async def get(self) -> Key:
        """Take the key that has waited longest; the caller must call `done` for it."""
        while not self._waiting:
            self._arrival.clear()
            await self._arrival.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        self._running.add(key)
        QUEUE_DEPTH.set(len(self._waiting))
        return key

    def done(self, key: Key, *, succeeded: bool, retry_after_seconds: float = 0.0) -> None:
        """End the work on a key; one that failed comes back, not sooner than it is told to."""
        self._running.discard(key)
        if succeeded:
            self._failures.pop(key, None)
        else:
            self.add_after(key, max(retry_after_seconds, self._back_off(key)))
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def failures(self, key: Key) -> int:
        """How often in a row the work on a key has failed."""
        return self._failures.get(key, 0)

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _back_off(self, key: Key) -> float:
        failures = self.failures(key)
        self._failures[key] = failures + 1
        delay = min(FIRST_DELAY_SECONDS * 2.0**failures, LONGEST_DELAY_SECONDS)
        return delay * random.uniform(0.8, 1.2)  # noqa: S311  (spreads retries, hides no secret)
