"""Kubernetes Events: one per decision, with the number behind it, deduplicated.

An event's name is the hash of what it says, so the same words about the same object are one event
with a count. What is said again within ten minutes is not sent at all.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Literal

from openinference_operator import names, timestamps
from openinference_operator.cluster import Cluster
from openinference_operator.errors import AlreadyExists, ApiError
from openinference_operator.operations import Annotate, Create, Delete, Operation, Resize
from openinference_operator.store import Object

log = logging.getLogger(__name__)

QUIET_SECONDS = 600.0
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling about an InferenceService."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


def notes_on(operations: Sequence[Operation]) -> Iterator[Note]:
    """What the operations of a plan mean to its reader."""
    for operation in operations:
        match operation:
            case Create({"kind": "Job", "metadata": {"name": name}}):
                yield Note("DownloadStarted", f"{name} brings the model into its claim")
            case Create({"kind": "StatefulSet", "metadata": {"name": name}}):
                yield Note("GroupCreated", f"started {name}")
            case Annotate(reference, annotations):
                yield from _notes_on_progress(reference.name, annotations)
            case Resize(reference, 0, _):
                message = f"{reference.name} held nodes and lacked others: it gave them up"
                yield Note("GroupGivenUp", f"{message} and tries again later", "Warning")
            case Resize(reference, pods, _):
                yield Note("GroupRetried", f"{reference.name} asks for {pods} nodes again")
            case Delete(reference) if reference.kind == "StatefulSet":
                yield Note("GroupDeleted", f"{reference.name} has drained or was lost")
            case _:
                pass


def _notes_on_progress(name: str, annotations: Mapping[str, str | None]) -> Iterator[Note]:
    if names.ANNOTATION_DRAINING_SINCE in annotations:
        yield Note("GroupDraining", f"{name} gets no new request")
    if names.ANNOTATION_SUCCEEDED_AT in annotations:
        yield Note("RolloutComplete", f"all replicas are of {name}")
    if names.ANNOTATION_RECREATED_AT in annotations:
        yield Note("PodRecreated", f"{name} crashed in vain", "Warning")
    if names.ANNOTATION_GOLDEN_AT in annotations:
        yield Note("GoldenPassed", f"{name} answered its golden prompts as expected")
    if failure := annotations.get(names.ANNOTATION_FAILURE):
        yield Note("RolledBack", f"gave {name} up: {failure}", "Warning")
    if place := annotations.get(names.ANNOTATION_CANARY):
        yield Note("CanaryStep", f"{name} is at {place} (steps done, and since when the next)")


class Recorder:
    """Sends notes as Events."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sent: dict[str, tuple[float, int]] = {}

    async def record(self, about: Object, note: Note) -> None:
        """Send a note unless it was sent lately; an event that fails is only logged."""
        metadata = about["metadata"]
        said = "\n".join((metadata["uid"], note.type, note.reason, note.message))
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        last, count = self._sent.pop(digest, (-QUIET_SECONDS, 0))
        is_quiet = monotonic() - last < QUIET_SECONDS and count > 0
        self._sent[digest] = (last, count) if is_quiet else (monotonic(), count + 1)
        if len(self._sent) > REMEMBERED:
            self._sent.pop(next(iter(self._sent)))
        if is_quiet:
            return
        try:
            await self._send(_event(about, note, digest, count + 1), is_new=count == 0)
        except ApiError as error:
            log.info("event not sent: reason=%s error=%s", note.reason, error)

    async def _send(self, event: Object, *, is_new: bool) -> None:
        """Create an event, which is cheaper, or bring one that may exist up to date."""
        if is_new:
            with contextlib.suppress(AlreadyExists):  # said by a leader before this one
                await self._cluster.create(event)
                return
        await self._cluster.apply(event, force=True)


def _event(about: Object, note: Note, digest: str, count: int) -> Object:
    metadata, now = about["metadata"], timestamps.to_text(time())
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
        "count": count,
        "lastTimestamp": now,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
    }
