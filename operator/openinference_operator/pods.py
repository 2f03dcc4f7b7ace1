"""What an engine pod is doing, reduced to what the operator decides by."""

from dataclasses import dataclass

from openinference_operator.pod_status import RawPod, condition, own_status
from openinference_operator.trouble import Trouble, find_trouble


@dataclass(frozen=True, slots=True)
class Pod:
    """The facts about an engine pod. `is_placed`: it has a node.

    `has_started`: its container has passed the startup probe since its last start; false for a
    moment, too, after the kubelet itself restarted. `is_running`: its container runs.
    `is_being_made`: its node has not got its volumes and its network ready yet.
    `is_backing_off`: the kubelet waits before it starts a crashing container again.
    `is_lost`: Kubernetes gave up on its node; it will neither answer nor confirm its end.
    """

    name: str
    uid: str
    is_placed: bool
    is_ready: bool
    ready_since: str
    has_started: bool
    is_running: bool
    is_being_made: bool
    is_backing_off: bool
    is_terminating: bool
    is_lost: bool
    restarts: int
    trouble: Trouble | None


def read_pod(raw: RawPod) -> Pod:
    """Reduce a pod to what the operator decides by."""
    ready = condition(raw, "Ready")
    disruption = condition(raw, "DisruptionTarget")
    is_terminating = "deletionTimestamp" in raw["metadata"]
    is_ready = ready.get("status") == "True"
    # Kubernetes marks the pods of a silent node unready; one that is ready only obeys a taint.
    is_lost = (
        is_terminating and not is_ready and disruption.get("reason") == "DeletionByTaintManager"
    )
    container = own_status(raw)
    state = container.get("state", {})
    return Pod(
        name=raw["metadata"]["name"],
        uid=raw["metadata"]["uid"],
        is_placed="nodeName" in raw["spec"],
        is_ready=is_ready,
        ready_since=ready.get("lastTransitionTime", ""),
        has_started=bool(container.get("started")),
        is_running="running" in state,
        is_being_made=condition(raw, "PodReadyToStartContainers").get("status") == "False"
        and "waiting" in state
        and not is_terminating,
        is_backing_off=state.get("waiting", {}).get("reason") == "CrashLoopBackOff",
        is_terminating=is_terminating,
        is_lost=is_lost,
        restarts=int(container.get("restartCount", 0)),
        trouble=find_trouble(raw, is_terminating=is_terminating, is_lost=is_lost),
    )
