"""The core as a thread of this process: for the Python API, which has no server to keep alive."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from openinference_engine.core.client import CoreClient
from openinference_engine.core.messages import Abort
from openinference_engine.errors import StartError


class ThreadedCore(CoreClient):
    async def _run_core(self, folder: Path) -> int:
        """Raises StartError if the model cannot be loaded, and whatever else ends the core."""
        from openinference_engine.core import process  # torch

        if self.config.group.num_ranks > 1:
            raise StartError("ranks need processes of their own; use openinference serve")

        stopping = threading.Event()
        core = _in_thread(lambda: process.run(folder, self.config, time.monotonic(), stopping))
        try:
            await asyncio.shield(core)
        finally:
            stopping.set()
            self._send(Abort([]))  # wakes it up
            if not core.done():
                await core
        return 0


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """A thread that keeps no program from ending, as the ones of asyncio.to_thread would."""
    result: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(None)

    threading.Thread(target=run, name="core", daemon=True).start()
    return asyncio.wrap_future(result)
