"""An event loop in a thread of its own: how code without asyncio calls code with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads until it is stopped. A daemon: it holds up no exit."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Each item as it comes. Leaving early closes the generator."""
        nothing = object()
        try:
            while (item := self.run(_next(items, nothing))) is not nothing:
                yield item  # type: ignore[misc]
        finally:
            self.run(items.aclose())

    def stop(self) -> None:
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _next(items: AsyncGenerator[T, None], otherwise: object) -> T | object:
    return await anext(items, otherwise)
