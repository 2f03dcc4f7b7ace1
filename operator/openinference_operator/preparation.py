"""Where the wanted model is on its way to the replicas: pure, read from the pods that fetch it.

A model in the image or a package is nobody's work. One that is kept in a claim is fetched, or
looked at, by a Job; its result is noted on the Job, because its pod may go. Without a claim each
engine pod fetches in an init container. Until a Job has its result, the revision that wants it
makes no group: a replica would hold its GPUs and wait.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from openinference_operator import names
from openinference_operator.manifests import model
from openinference_operator.model_summary import read_summary
from openinference_operator.operations import Annotate, Create, Delete, Operation, Reference
from openinference_operator.pod_status import condition, end_of, named
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

JOB_LABEL = "batch.kubernetes.io/job-name"


class ModelStage(Enum):
    """How far a model is."""

    IN_PLACE = auto()  # the engine reads it where it is
    PENDING = auto()  # what fetches it does not run yet
    FETCHING = auto()
    FAILED = auto()  # the last attempt failed; another one follows
    READY = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes that are there, of all; both 0 while another download of the same model runs."""

    downloaded_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What was fetched. `summary`: the shape of the model, as `openinference model` tells it.

    It is None when it is told otherwise, as by an engine image of another version.
    """

    revision: str
    num_bytes: int
    summary: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Preparation:
    """The model of the wanted revision. `fetcher`: the pod whose log tells the progress now.

    `is_by_job`: replicas wait until it is ready, because a Job fetches it for all of them.
    """

    stage: ModelStage
    message: str = ""
    result: Result | None = None
    progress: Progress | None = None
    fetcher: str = ""
    is_by_job: bool = False

    @property
    def holds_replicas(self) -> bool:
        """Whether a new replica would start in vain."""
        return self.is_by_job and self.stage is not ModelStage.READY


IN_PLACE = Preparation(ModelStage.IN_PLACE)


def read_preparation(
    service: InferenceService, revision: str, jobs: Sequence[Object], pods: Iterable[Object]
) -> Preparation:
    """How far the model is that a service wants; `pods` are all of the service."""
    if not service.model.volume_claim:
        fetching = _read_pods(_of_revision(pods, revision), "initContainerStatuses")
        return fetching if service.model.is_remote else IN_PLACE
    return replace(_read_job(_wanted(service, jobs), pods), is_by_job=True)


def is_fetcher(pod: Object) -> bool:
    """Whether a pod belongs to a Job that fetches a model."""
    return bool(_label(pod, JOB_LABEL))


def plan_preparation(
    service: InferenceService, jobs: Sequence[Object], pods: Sequence[Object], image: str
) -> Iterator[Operation]:
    """Make the Job that is wanted, note its result on it, delete those that are not wanted."""
    wanted = _wanted(service, jobs)
    if wanted is not None:
        yield from _keep_result(wanted, _of_job(pods, wanted))
    elif service.model.volume_claim:
        yield Create(model.build_job(service, image))
    for job in jobs:
        if job is not wanted:
            yield from _delete(job)


def read_result(text: str) -> Result | None:
    """The result in a termination message; None if it is something else."""
    try:
        said = json.loads(text)
        return Result(str(said["revision"]), int(said["bytes"]), read_summary(said.get("summary")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def read_progress(line: str) -> Progress | None:
    """The progress in a log line; None if it is something else."""
    try:
        said = json.loads(line)
        return Progress(int(said["downloadedBytes"]), int(said["totalBytes"]))
    except (ValueError, KeyError, TypeError):
        return None


def _read_job(job: Object | None, pods: Iterable[Object]) -> Preparation:
    if job is None:
        return Preparation(ModelStage.PENDING, "the Job that fetches it is not there yet")
    noted = (job["metadata"].get("annotations") or {}).get(names.ANNOTATION_MODEL, "")
    if result := read_result(noted):
        return Preparation(ModelStage.READY, result=result)
    return _read_pods(_of_job(pods, job), "containerStatuses")


def _keep_result(job: Object, pods: Sequence[Object]) -> Iterator[Operation]:
    metadata = job["metadata"]
    if names.ANNOTATION_MODEL in (metadata.get("annotations") or {}):
        return
    said = [end_of(_container(pod, "containerStatuses")).get("message", "") for pod in pods]
    result = next((text for text in said if read_result(text)), None)
    if result is not None:
        yield Annotate(_reference(job), {names.ANNOTATION_MODEL: result})
    elif (job.get("status") or {}).get("succeeded") and not pods:
        yield from _delete(job)  # its words are lost; the next one finds the model and says them


def _delete(job: Object) -> Iterator[Operation]:
    if "deletionTimestamp" not in job["metadata"]:
        yield Delete(_reference(job))


def _read_pods(pods: Sequence[Object], statuses: str) -> Preparation:
    """What the pods that fetch say: the one that is done, else the one that is furthest."""
    said = [_read_pod(pod, statuses) for pod in pods]
    order = (ModelStage.READY, ModelStage.FETCHING, ModelStage.FAILED, ModelStage.PENDING)
    waiting = Preparation(ModelStage.PENDING, "no pod has begun to fetch it")
    return min(said, key=lambda each: order.index(each.stage), default=waiting)


def _read_pod(pod: Object, statuses: str) -> Preparation:
    name, container = pod["metadata"]["name"], _container(pod, statuses)
    state = container.get("state", {})
    ended = end_of(container)
    if ended and ended.get("exitCode") == 0:
        result = read_result(ended.get("message", ""))
        return Preparation(ModelStage.READY, result=result)
    if "running" in state:
        return Preparation(ModelStage.FETCHING, _words(ended), fetcher=name)
    if ended:
        return Preparation(ModelStage.FAILED, f"pod {name}: {_words(ended)}")
    waiting = state.get("waiting", {})
    if waiting.get("message"):
        return Preparation(ModelStage.FAILED, f"pod {name}: {waiting['message']}")
    unscheduled = condition(pod, "PodScheduled")
    told = unscheduled.get("message") if unscheduled.get("status") == "False" else None
    return Preparation(
        ModelStage.PENDING, f"pod {name}: {told or 'its container does not run yet'}"
    )


def _words(ended: Mapping[str, Any]) -> str:
    """The last words of a container that failed: one sentence, after its log."""
    if not ended:
        return ""
    lines = (ended.get("message") or "").strip().splitlines()
    return lines[-1].removeprefix("openinference: ") if lines else str(ended.get("reason", "ended"))


def _container(pod: Object, statuses: str) -> Mapping[str, Any]:
    return named(model.COMPONENT, (pod.get("status") or {}).get(statuses))


def _wanted(service: InferenceService, jobs: Iterable[Object]) -> Object | None:
    name = model.job_name(service) if service.model.volume_claim else ""
    return next((job for job in jobs if job["metadata"]["name"] == name), None)


def _of_job(pods: Iterable[Object], job: Object) -> list[Object]:
    name = job["metadata"]["name"]
    return [pod for pod in pods if _label(pod, JOB_LABEL) == name]


def _of_revision(pods: Iterable[Object], revision: str) -> list[Object]:
    return [pod for pod in pods if _label(pod, names.LABEL_REVISION) == revision]


def _label(pod: Object, label: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(label, ""))


def _reference(job: Object) -> Reference:
    metadata = job["metadata"]
    place = (metadata["namespace"], metadata["name"], metadata["uid"])
    return Reference("Job", *place, metadata["resourceVersion"])
