"""The core as a process of its own: started, watched while it works, killed if it hangs."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import msgspec

from openinference_engine.core.client import CoreClient

log = logging.getLogger("openinference.server")
_WATCH_SECONDS = 1.0


class SpawnedCore(CoreClient):
    async def _run_core(self, folder: Path) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openinference_engine.core", str(folder)),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which drains first
        )
        watching = asyncio.create_task(self._watch(process), name="core-watch")
        try:
            if process.stdin is not None:
                process.stdin.write(msgspec.json.encode(self.config) + b"\n")
            return await process.wait()
        finally:
            watching.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Tells of a late step. Ends a core that hangs: it says where it stands, then is killed."""
        was_stuck = False
        while self.loaded is None or not self.heartbeat.is_hung:
            await asyncio.sleep(_WATCH_SECONDS)
            is_stuck = self.loaded is not None and self.heartbeat.is_stuck
            if is_stuck and not was_stuck:
                log.warning("engine step is late", extra={"fields": self._step_age})
            was_stuck = is_stuck
        log.error("engine core hangs", extra={"fields": self._step_age})
        process.send_signal(signal.SIGUSR1)  # its stacks, on stderr
        await asyncio.sleep(_WATCH_SECONDS)
        process.kill()

    @property
    def _step_age(self) -> dict[str, float]:
        return {"step_age_seconds": round(self.heartbeat.age_seconds, 1)}
