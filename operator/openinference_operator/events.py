"""Kubernetes Events: one per decision, with the number behind it, deduplicated.

An event's name is the hash of what it says, so the same words about the same object are one event
with a count, which goes on whoever leads. What is said again within ten minutes is not sent at all.
"""

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
        self._sent_at: dict[str, float] = {}

    async def record(self, about: Object, note: Note) -> None:
        """Send a note unless it was sent lately; an event that fails is only logged."""
        metadata = about["metadata"]
        said = "\n".join((metadata["uid"], note.type, note.reason, note.message))
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        sent_at, now = self._sent_at.pop(digest, -QUIET_SECONDS), monotonic()
        is_quiet = now - sent_at < QUIET_SECONDS
        self._sent_at[digest] = sent_at if is_quiet else now
        if len(self._sent_at) > REMEMBERED:
            self._sent_at.pop(next(iter(self._sent_at)))
        if is_quiet:
            return
        try:
            await self._send(_event(about, note, digest))
        except ApiError as error:
            log.info("event not sent: reason=%s error=%s", note.reason, error)

    async def _send(self, event: Object) -> None:
        """Create an event, or count once more in the one that is there."""
        now = timestamps.to_text(time())
        event = {**event, "count": 1, "firstTimestamp": now, "lastTimestamp": now}
        try:
            await self._cluster.create(event)
        except AlreadyExists:
            metadata = event["metadata"]
            present = await self._cluster.get("Event", metadata["namespace"], metadata["name"])
            count, first = present.get("count") or 1, present.get("firstTimestamp") or now
            again = {**event, "count": count + 1, "firstTimestamp": first}
            await self._cluster.apply(again, force=True)


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
