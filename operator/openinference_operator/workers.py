"""The workers: each takes a key while this replica leads, and what failed comes back later."""

import asyncio
import logging
from time import monotonic

from openinference_operator.controller import Controller
from openinference_operator.errors import ApiError, LeaseLost, OperatorError
from openinference_operator.lease import Lease
from openinference_operator.metrics import RECONCILE_SECONDS
from openinference_operator.triggers import Key
from openinference_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)


class Workers:
    """Let a controller reconcile the keys of a queue, as soon as they have started."""

    def __init__(self, queue: WorkQueue[Key], lease: Lease, controller: Controller) -> None:
        self._queue = queue
        self._lease = lease
        self._controller = controller
        self._started = asyncio.Event()

    def start(self) -> None:
        """Let the workers begin: every object that exists has been seen."""
        self._started.set()

    def has_started(self) -> bool:
        """Whether the workers may begin, as soon as this replica leads."""
        return self._started.is_set()

    async def work(self) -> None:
        """One worker, for ever."""
        await self._started.wait()
        while True:
            await self._lease.wait_until_held()
            key = await self._queue.get()
            started, result, retry_after_seconds = monotonic(), "error", 0.0
            try:
                await self._controller.reconcile(key)
                result = "ok"
            except LeaseLost as error:
                log.info("left to the leader: key=%s reason=%s", key, error)
            except OperatorError as error:
                log.warning("will retry: key=%s error=%s", key, error)
                if isinstance(error, ApiError):
                    retry_after_seconds = error.retry_after_seconds
            except Exception as error:
                log.exception("will retry: key=%s", key)
                await self._controller.confess(key, error)
            finally:
                self._queue.done(
                    key, succeeded=result == "ok", retry_after_seconds=retry_after_seconds
                )
            kind = "service" if key.service else "router"
            RECONCILE_SECONDS.labels(key=kind, result=result).observe(monotonic() - started)
