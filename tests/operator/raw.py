"""Objects as the API server shows them."""

from openinference_operator import names
from openinference_operator.manifests.engine import build_pod_template, build_statefulset

NAMESPACE = "team-a"


def build_service(name="demo", annotations=None, generation=1, **spec):
    """A raw InferenceService; keyword arguments are fields of its spec."""
    return {
        "apiVersion": "openinference.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-of-{name}",
            "generation": generation,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": annotations or {},
        },
        "spec": {"model": {"uri": "package://models/tiny.gguf"}, **spec},
    }


def build_pod(
    group,
    is_ready=True,
    has_started=None,
    is_ending=False,
    is_broken=False,
    is_lost=False,
    restarts=0,
    index=0,
    is_unplaced=False,
    **status,
):
    """A raw engine pod of a group."""
    container = {
        "name": "engine",
        "started": is_ready if has_started is None else has_started,
        "restartCount": restarts,
        "state": {"running": {}},
    }
    if is_broken:
        container["started"] = False
        container["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
        container["lastState"] = {"terminated": {"exitCode": 1}}
    metadata = {
        "name": f"{group}-{index}",
        "namespace": NAMESPACE,
        "uid": f"pod-{index}-of-{group}",
        "resourceVersion": "1",
        "labels": {
            names.LABEL_SERVICE: group.rsplit("-", 2)[0],
            names.LABEL_GROUP: group,
            names.LABEL_COMPONENT: "engine",
        },
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    if is_ending or is_lost:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if is_ready else "False"}]
    if is_lost:
        conditions.append({"type": "DisruptionTarget", "reason": "DeletionByTaintManager"})
    if is_unplaced:
        conditions.append({"type": "PodScheduled", "status": "False", "message": "no node"})
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {} if is_unplaced else {"nodeName": "node-a"},
        "status": {"conditions": conditions, "containerStatuses": [container], **status},
    }


def statefulset(service, name="demo-1a2b3c4d-0"):
    return build_statefulset(service, "1a2b3c4d", name, build_pod_template(service, "engine:1"))
