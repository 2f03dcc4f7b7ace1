"""Kubernetes Events: one per decision, with the number behind it, deduplicated.

An event's name is the hash of what it says, so the same words about the same object are one event
with a count. What is said again within ten minutes is not sent at all.
"""

import contextlib
import hashlib
import logging
from time import monotonic, time

from openinference_operator import names, timestamps
from openinference_operator.cluster import Cluster
from openinference_operator.errors import AlreadyExists, ApiError
from openinference_operator.notes import Note
from openinference_operator.store import Object

log = logging.getLogger(__name__)

QUIET_SECONDS = 600.0
REMEMBERED = 10_000


class Recorder:
    """Sends notes as Events."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sent: dict[str, tuple[float, int, str]] = {}

    async def record(self, about: Object, note: Note) -> None:
        """Send a note unless it was sent lately; an event that fails is only logged."""
        metadata = about["metadata"]
        said = "\n".join((metadata["uid"], note.type, note.reason, note.message))
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        now = timestamps.to_text(time())
        last, count, first = self._sent.pop(digest, (-QUIET_SECONDS, 0, now))
        is_quiet = monotonic() - last < QUIET_SECONDS and count > 0
        self._sent[digest] = (last, count, first) if is_quiet else (monotonic(), count + 1, first)
        if len(self._sent) > REMEMBERED:
            self._sent.pop(next(iter(self._sent)))
        if is_quiet:
            return
        try:
            event = _event(about, note, digest)
            seen = {"count": count + 1, "firstTimestamp": first, "lastTimestamp": now}
            await self._send({**event, **seen}, is_new=count == 0)
        except ApiError as error:
            log.info("event not sent: reason=%s error=%s", note.reason, error)

    async def _send(self, event: Object, *, is_new: bool) -> None:
        """Create an event, which is cheaper, or bring one that may exist up to date."""
        if is_new:
            with contextlib.suppress(AlreadyExists):  # said by a leader before this one
                await self._cluster.create(event)
                return
        await self._cluster.apply(event, force=True)


def _event(about: Object, note: Note, digest: str) -> Object:
    metadata = about["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
            "kind": names.KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
    }
