"""Pictures of the dashboard for the documentation, of a router that is busy.

With OPENINFERENCE_SCREENSHOTS naming a folder the tests leave them there;
OPENINFERENCE_SCREENSHOT_SECONDS of traffic before the picture give its charts a history.
"""

import asyncio
import contextlib
import os
from pathlib import Path

from playwright.async_api import Page


@contextlib.asynccontextmanager
async def traffic(url: str, client, num_clients: int = 3):
    """Streams that follow one another, so that the charts have something to show."""

    async def keep_asking(number: int) -> None:
        for turn in range(1000):
            asked = {
                "model": "smollm2",
                "messages": [
                    {"role": "user", "content": f"Tell me about the number {number + turn}."}
                ],
                "max_tokens": 40,
                "stream": True,
            }
            async with client.post(f"{url}/v1/chat/completions", json=asked) as response:
                await response.read()

    tasks = [asyncio.create_task(keep_asking(number)) for number in range(num_clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fill_the_charts(url: str, client) -> None:
    """Nothing but for the pictures of the documentation."""
    if seconds := float(os.environ.get("OPENINFERENCE_SCREENSHOT_SECONDS", "0")):
        async with traffic(url, client):
            await asyncio.sleep(seconds)


async def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("OPENINFERENCE_SCREENSHOTS"):
        await page.screenshot(path=Path(folder) / f"{name}.png")
