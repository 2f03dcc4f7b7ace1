"""A stream that also ticks: for pictures that must move while nothing changes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def at_least_every(seconds: float, states: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Every state as it comes, and the newest again whenever `seconds` passed without one."""
    newest = await anext(states)
    yield newest
    coming = asyncio.ensure_future(anext(states))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=seconds)
            if done:
                try:
                    newest = coming.result()
                except StopAsyncIteration:
                    return
                coming = asyncio.ensure_future(anext(states))
            yield newest
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await coming  # a generator that still runs cannot be closed
        await states.aclose()
