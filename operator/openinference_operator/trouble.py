"""Why a pod cannot serve and will not by waiting.

A list of small rules; the first that applies wins. Each names the object or number behind it,
because these words end up in the conditions of the InferenceService.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

from openinference_operator.pod_status import RawPod, condition, end_of, own_container, own_status
from openinference_operator.reasons import Reason
from openinference_operator.shortage import requests_of


class Concern(Enum):
    """Which condition a trouble belongs to."""

    SCHEDULED = "Scheduled"
    GROUPS_HEALTHY = "GroupsHealthy"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod cannot serve and will not by waiting. `lacking`: what it needs that no node has."""

    concern: Concern
    reason: Reason
    message: str
    lacking: Mapping[str, Decimal] = field(default_factory=dict)


INSUFFICIENT = re.compile(r"Insufficient ([\w./-]*\w)")
IMAGE_PROBLEMS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
VAIN_ATTEMPTS = 2  # a download that was cut once goes on
CONTAINER_PROBLEMS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def find_trouble(raw: RawPod, *, is_terminating: bool, is_lost: bool) -> Trouble | None:
    """What is wrong with a pod; None if nothing is known to be."""
    if is_lost:
        return _node_lost(raw)
    if is_terminating:
        return _evicted(raw)
    return next((trouble for rule in TROUBLE_RULES if (trouble := rule(raw))), None)


def _node_lost(raw: RawPod) -> Trouble:
    node = raw["spec"].get("nodeName", "?")
    name = raw["metadata"]["name"]
    message = f"pod {name} was given up on node {node}, which does not answer or is tainted"
    return Trouble(Concern.GROUPS_HEALTHY, Reason.NODE_LOST, message)


def _unschedulable(raw: RawPod) -> Trouble | None:
    scheduled = condition(raw, "PodScheduled")
    if scheduled.get("status") != "False":
        return None
    told = scheduled.get("message", "the scheduler gives no reason")
    message = f"pod {raw['metadata']['name']}: {told}"
    requests = requests_of(raw)
    lacking = {name: requests[name] for name in INSUFFICIENT.findall(told) if name in requests}
    return Trouble(Concern.SCHEDULED, _shortage(told), message, lacking)


def _shortage(told: str) -> Reason:
    if "Insufficient" not in told:
        return Reason.UNSCHEDULABLE
    return Reason.INSUFFICIENT_GPU if "gpu" in told else Reason.INSUFFICIENT_RESOURCES


def _image(raw: RawPod) -> Trouble | None:
    return _waiting(raw, IMAGE_PROBLEMS, Reason.IMAGE_PULL_FAILED)


def _configuration(raw: RawPod) -> Trouble | None:
    return _waiting(raw, CONTAINER_PROBLEMS, Reason.CONTAINER_CONFIG_ERROR)


def _waiting(raw: RawPod, problems: tuple[str, ...], reason: Reason) -> Trouble | None:
    container = _due(raw)
    waiting = container.get("state", {}).get("waiting", {})
    if waiting.get("reason") not in problems:
        return None
    image = container.get("image", "")
    told = waiting.get("message") or waiting["reason"]
    message = f"pod {raw['metadata']['name']}, image {image}: {told}"
    return Trouble(Concern.GROUPS_HEALTHY, reason, message)


def _not_initialised(raw: RawPod) -> Trouble | None:
    """What comes before the engine fails again and again: it fetches the model, or is a mesh's."""
    container = _due(raw)
    ended = end_of(container)
    if container is own_status(raw) or not ended or container["restartCount"] < VAIN_ATTEMPTS:
        return None
    name = raw["metadata"]["name"]
    message = f"pod {name} does not start: its container {container['name']} {_words(container)}"
    return Trouble(Concern.GROUPS_HEALTHY, Reason.POD_NOT_STARTED, message)


def _crashing(raw: RawPod) -> Trouble | None:
    """The engine ended and has not passed its startup probe since."""
    container = own_status(raw)
    ended = end_of(container)
    if not ended or container.get("started"):
        return None
    if ended.get("reason") == "OOMKilled":
        return _out_of_memory(raw)
    message = f"pod {raw['metadata']['name']} {_words(container)}"
    return Trouble(Concern.GROUPS_HEALTHY, Reason.CRASH_LOOP, message)


def _words(container: Mapping[str, Any]) -> str:
    """How a container ended, and its last words."""
    ended = end_of(container)
    exited = f"exited with {ended.get('exitCode')} ({container.get('restartCount', 0)} restarts)"
    said = (ended.get("message") or "").strip().splitlines()
    return f"{exited}: {said[-1]}" if said else exited


def _out_of_memory(raw: RawPod) -> Trouble:
    container = own_container(raw, raw["spec"].get("containers"))
    limit = (container.get("resources") or {}).get("limits", {}).get("memory")
    at = f"its limit of {limit}" if limit else f"what node {raw['spec'].get('nodeName')} has"
    message = (
        f"pod {raw['metadata']['name']} needs more memory than {at}"
        f" ({own_status(raw).get('restartCount', 0)} restarts)"
    )
    return Trouble(Concern.GROUPS_HEALTHY, Reason.OUT_OF_MEMORY, message)


def _evicted(raw: RawPod) -> Trouble | None:
    """Kubernetes ends it for another's sake: a drain of its node, pressure on it, preemption."""
    disruption, status = condition(raw, "DisruptionTarget"), raw.get("status", {})
    if disruption.get("status") != "True" and status.get("reason") != "Evicted":
        return None
    told = disruption.get("message") or status.get("message") or "no reason given"
    node = raw["spec"].get("nodeName", "?")
    message = f"pod {raw['metadata']['name']} was evicted from node {node}: {told}"
    return Trouble(Concern.GROUPS_HEALTHY, Reason.EVICTED, message)


def _failed(raw: RawPod) -> Trouble | None:
    status = raw.get("status", {})
    if status.get("phase") != "Failed":
        return None
    told = status.get("message") or status.get("reason") or "no reason given"
    message = f"pod {raw['metadata']['name']} failed: {told}"
    return Trouble(Concern.GROUPS_HEALTHY, Reason.POD_FAILED, message)


TROUBLE_RULES: tuple[Callable[[RawPod], Trouble | None], ...] = (
    _unschedulable,
    _image,
    _configuration,
    _evicted,
    _not_initialised,
    _crashing,
    _failed,
)


def _due(raw: RawPod) -> Mapping[str, Any]:
    """The container that the pod waits for: the engine, or the first before it that is not done."""
    engine = own_status(raw)
    if engine.get("state", {}).get("waiting", {}).get("reason") != "PodInitializing":
        return engine
    before = raw.get("status", {}).get("initContainerStatuses") or []
    return next((each for each in before if not each.get("ready")), engine)
