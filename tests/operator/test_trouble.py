"""Conditions: what is said of pods in trouble, and the number or object behind it."""

import pytest
from openinference_operator.pods import read_pod

from tests.operator.statuses import condition, status_of


def test_a_crash_loop_names_pod_code_and_last_words(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    world.broken = set(world.groups)
    status = status_of(world)
    kind, reason, message = condition(status, "Ready")
    assert (kind, reason) == ("False", "CrashLoop")
    assert "-0 exited with 1" in message


TROUBLES = {
    "no GPU left": (
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
            ]
        },
        "InsufficientGPU",
        "3 Insufficient nvidia.com/gpu",
    ),
    "no memory left": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "2 Insufficient memory."}
            ]
        },
        "InsufficientResources",
        "2 Insufficient memory",
    ),
    "no node matches": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "3 didn't match selector"}
            ]
        },
        "Unschedulable",
        "3 didn't match selector",
    ),
    "the image is missing": (
        {
            "containerStatuses": [
                {
                    "image": "engine:404",
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
                }
            ]
        },
        "ImagePullFailed",
        "engine:404: not found",
    ),
    "a Secret is missing": (
        {
            "containerStatuses": [
                {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no x"}}}
            ]
        },
        "ContainerConfigError",
        "no x",
    ),
    "the model is missing": (
        {
            "containerStatuses": [
                {
                    "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {
                        "terminated": {
                            "exitCode": 2,
                            "message": "starting\nfile:///m.gguf does not exist",
                        }
                    },
                }
            ]
        },
        "CrashLoop",
        "exited with 2 (3 restarts): file:///m.gguf does not exist",
    ),
    "out of memory": (
        {
            "containerStatuses": [
                {
                    "restartCount": 1,
                    "state": {"running": {}},
                    "started": False,
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }
            ]
        },
        "OutOfMemory",
        "needs more memory than what node node-a has (1 restarts)",
    ),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "node was low on memory"},
        "Evicted",
        "was evicted from node node-a: node was low on memory",
    ),
    "drained": (
        {
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting",
                }
            ]
        },
        "Evicted",
        "Eviction API: evicting",
    ),
    "ended as a whole": (
        {"phase": "Failed", "message": "the node was shut down"},
        "PodFailed",
        "the node was shut down",
    ),
}


@pytest.mark.parametrize(("status", "reason", "part"), TROUBLES.values(), ids=TROUBLES.keys())
def test_trouble_of_a_pod_is_named_with_what_is_behind_it(raw_pod, status, reason, part):
    trouble = read_pod(raw_pod("demo-1a2b3c4d-0", is_ready=False, **status)).trouble
    assert trouble.reason == reason
    assert part in trouble.message
    assert "demo-1a2b3c4d-0-0" in trouble.message


def test_out_of_memory_names_the_limit(raw_pod):
    ended = {"restartCount": 1, "lastState": {"terminated": {"reason": "OOMKilled"}}}
    raw = raw_pod("demo-1a2b3c4d-0", is_ready=False, containerStatuses=[ended])
    raw["spec"]["containers"] = [{"resources": {"limits": {"memory": "2Gi"}}}]
    assert "more memory than its limit of 2Gi" in read_pod(raw).trouble.message


def test_a_pod_that_recovered_is_not_in_trouble(raw_pod):
    container = {
        "started": True,
        "restartCount": 4,
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 1}},
    }
    assert read_pod(raw_pod("demo-1-0", containerStatuses=[container])).trouble is None
