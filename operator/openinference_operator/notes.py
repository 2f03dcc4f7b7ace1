"""What is worth telling of an InferenceService, in the words of its events: pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from openinference_operator import names
from openinference_operator.observe import Observed
from openinference_operator.operations import Annotate, Create, Delete, Operation, Resize
from openinference_operator.scaling import Decision


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling about an InferenceService."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


def notes_of(
    operations: Sequence[Operation], observed: Observed, recorded: int, decision: Decision | None
) -> Iterator[Note]:
    """Of one look at a service. `recorded`: how many replicas were wanted before."""
    if decision is not None and decision.desired != recorded:
        yield Note("Scaled", decision.message)
    yield from notes_on(operations)
    for trouble in (group.trouble for group in observed.groups if group.trouble is not None):
        yield Note(trouble.reason, trouble.message, "Warning")


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
