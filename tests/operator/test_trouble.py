"""Conditions: what is said of pods in trouble, and the number or object behind it."""

from dataclasses import replace

import pytest
from openinference_operator import names
from openinference_operator.facts import Facts
from openinference_operator.pods import read_pod
from openinference_operator.routers import router_endpoint
from openinference_operator.signals.router_state import Endpoint
from openinference_operator.status import build_status

from tests.operator.statuses import condition, status_of


def test_a_crash_loop_names_pod_code_and_last_words(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    world.broken = set(world.groups)
    status = status_of(world)
    kind, reason, message = condition(status, "Ready")
    assert (kind, reason) == ("False", "CrashLoop")
    assert "-0 exited with 1" in message


INITIALIZING = {"name": "engine", "state": {"waiting": {"reason": "PodInitializing"}}}


def ended(exit_code, message=""):
    return {"terminated": {"exitCode": exit_code, "message": message}}


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
                    "name": "engine",
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
                {
                    "name": "engine",
                    "state": {
                        "waiting": {"reason": "CreateContainerConfigError", "message": "no x"}
                    },
                }
            ]
        },
        "ContainerConfigError",
        "no x",
    ),
    "the model is missing": (
        {
            "containerStatuses": [
                {
                    "name": "engine",
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
                    "name": "engine",
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
    "its model cannot be fetched": (
        {
            "containerStatuses": [INITIALIZING],
            "initContainerStatuses": [
                {"name": "istio-init", "ready": True, "restartCount": 2, "state": ended(0)},
                {
                    "name": "model",
                    "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                    "lastState": ended(2, "hf://team/tiny: no room in /models; free 1.2 GB"),
                },
            ],
        },
        "PodNotStarted",
        "container model exited with 2 (2 restarts): hf://team/tiny: no room in /models; free",
    ),
    "the image of what fetches its model is missing": (
        {
            "containerStatuses": [INITIALIZING],
            "initContainerStatuses": [
                {
                    "name": "model",
                    "image": "engine:404",
                    "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
                }
            ],
        },
        "ImagePullFailed",
        "engine:404: not found",
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


@pytest.mark.parametrize(
    "container",
    [
        {"restartCount": 1, "state": {"running": {}}, "lastState": ended(2, "cut; again")},
        {"restartCount": 3, "ready": True, "state": ended(0), "lastState": ended(2, "cut; again")},
    ],
)
def test_a_download_that_was_cut_once_or_is_done_is_no_trouble(raw_pod, container):
    fetching = {"name": "model", **container}
    statuses = {"containerStatuses": [INITIALIZING], "initContainerStatuses": [fetching]}
    assert read_pod(raw_pod("demo-1a2b3c4d-0", is_ready=False, **statuses)).trouble is None


@pytest.mark.parametrize(
    ("restarts", "culprit"),
    [
        ((3, None), "-0-0"),  # rank 0 cannot start, the other has waited for it only
        ((3, 1), "-0-0"),  # and no longer does
        ((1, 3), "-0-1"),
        ((None, 3), "-0-1"),
        ((2, 2), "-0-0"),  # one pulled the other down, and rank 0 says which
    ],
)
def test_of_a_group_that_cannot_meet_the_pod_speaks_that_ends_by_itself(
    make_world, raw_pod, restarts, culprit
):
    """Pods that wait in vain for another one end as well, ten minutes later, and hid it."""
    world = make_world(replicas=1)
    world.reconcile()
    observed = world.observe()
    [group] = observed.groups
    members = tuple(
        read_pod(
            raw_pod(group.name, False, index=index, is_broken=bool(times), restarts=times or 0)
        )
        for index, times in enumerate(restarts)
    )
    observed = replace(observed, groups=(replace(group, members=members),))
    facts = Facts(world.parsed, observed, world.plan(), None, world.now)
    _, reason, message = condition(build_status(facts), "Ready")
    assert reason == "CrashLoop"
    assert f"{culprit} exited with 1 (" in message


@pytest.mark.parametrize("beside", ["daprd", "istio-proxy"])
def test_a_pod_is_judged_by_its_engine_whatever_runs_beside_it(raw_pod, beside):
    """The kubelet sorts by name, so a sidecar that came first hid why the engine ended."""
    ended = {"terminated": {"exitCode": 2, "message": "no such model"}}
    engine = {"name": "engine", "restartCount": 3, "state": ended}
    sidecar = {"name": beside, "started": True, "restartCount": 0, "state": {"running": {}}}
    statuses = sorted((engine, sidecar), key=lambda container: container["name"])
    pod = read_pod(raw_pod("demo-1a2b3c4d-0", is_ready=False, containerStatuses=statuses))
    assert (pod.is_running, pod.restarts, pod.trouble.reason) == (False, 3, "CrashLoop")


def test_routers_are_found_by_their_own_container():
    labels = {names.LABEL_COMPONENT: "router"}
    metadata = {"name": "router-0", "namespace": "team-a", "uid": "uid", "labels": labels}
    proxy = {"name": "proxy", "started": False, "state": {"running": {}}}
    router = {"name": "router", "started": True, "state": {"running": {}}}
    status = {"phase": "Running", "podIP": "::1", "containerStatuses": [proxy, router]}
    raw = {"metadata": metadata, "spec": {}, "status": status}
    assert router_endpoint(raw) == Endpoint("team-a", "router-0", "::1")


def test_out_of_memory_names_the_limit(raw_pod):
    ended = {"restartCount": 1, "lastState": {"terminated": {"reason": "OOMKilled"}}}
    statuses = [{"name": "engine", **ended}]
    raw = raw_pod("demo-1a2b3c4d-0", is_ready=False, containerStatuses=statuses)
    limits = {"resources": {"limits": {"memory": "2Gi"}}}
    raw["spec"]["containers"] = [{"name": "proxy"}, {"name": "engine", **limits}]
    assert "more memory than its limit of 2Gi" in read_pod(raw).trouble.message


def test_a_pod_that_recovered_is_not_in_trouble(raw_pod):
    container = {
        "name": "engine",
        "started": True,
        "restartCount": 4,
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 1}},
    }
    assert read_pod(raw_pod("demo-1-0", containerStatuses=[container])).trouble is None
