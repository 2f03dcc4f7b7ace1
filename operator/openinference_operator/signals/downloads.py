"""How far downloads are: the last line of a log, asked every few seconds at most.

Only numbers are taken from a log; what it says otherwise is not read.
"""

from time import monotonic

from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError
from openinference_operator.manifests.model import COMPONENT
from openinference_operator.preparation import Progress, read_progress

INTERVAL_SECONDS = 3.0  # as often as the log tells it
REMEMBERED = 1_000


class Downloads:
    """The progress of the pods that fetch models, as last read."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[str, str], tuple[float, Progress | None]] = {}

    async def progress(self, namespace: str, pod: str) -> Progress | None:
        """Bytes so far, as last told; None while a pod has told nothing."""
        asked_at, known = self._known.pop((namespace, pod), (-INTERVAL_SECONDS, None))
        if monotonic() - asked_at >= INTERVAL_SECONDS:
            asked_at, known = monotonic(), await self._read(namespace, pod) or known
        self._known[namespace, pod] = (asked_at, known)
        if len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))
        return known

    async def _read(self, namespace: str, pod: str) -> Progress | None:
        try:
            return read_progress(await self._cluster.last_log_line(namespace, pod, COMPONENT))
        except ApiError:
            return None
