"""The nodes of the cluster, listed when somebody needs to know what GPUs they have.

They are not watched: capacity changes seldom, and a list now and then costs less than the heartbeat
of every node. An operator that may not list them, as in namespaced mode, knows none.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic

from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError
from openinference_operator.slim import slim
from openinference_operator.store import Object

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0


class Nodes:
    """All nodes, at most a minute old."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._listed_at = -INTERVAL_SECONDS
        self._nodes: Sequence[Object] = ()
        self._listing = asyncio.Lock()

    async def all(self) -> Sequence[Object]:
        """The nodes; what was last known when they cannot be listed.

        Raises ApiError while nothing is known and nobody forbids to ask.
        """
        async with self._listing:
            if monotonic() - self._listed_at >= INTERVAL_SECONDS:
                await self._list()
        return self._nodes

    async def _list(self) -> None:
        try:
            self._nodes = [slim(node) async for node in self._cluster.list_all("Node", "", "")]
        except ApiError as error:
            log.info("nodes not listed: error=%s", error)
            if not self._nodes and not error.is_refusal:
                raise
        self._listed_at = monotonic()
