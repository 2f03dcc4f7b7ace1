"""Which nodes would take a pod, and what GPUs they have."""

import pytest
from openinference_operator.admission import admitting, gpu_memories
from openinference_operator.spec import parse

TAINT = {"key": "team", "value": "vision", "effect": "NoSchedule"}
ADMISSIONS = {
    # name: (labels of a node, its spec, what the pod says) -> whether the node takes it
    "any": ({}, {}, {}, True),
    "cordoned": ({}, {"unschedulable": True}, {}, False),
    "of another pool": ({"pool": "cpu"}, {}, {"nodeSelector": {"pool": "gpu"}}, False),
    "of the pool": ({"pool": "gpu"}, {}, {"nodeSelector": {"pool": "gpu"}}, True),
    "tainted": ({}, {"taints": [TAINT]}, {}, False),
    "not ready": (
        {},
        {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
        {},
        False,
    ),
    "a taint that only asks": ({}, {"taints": [TAINT | {"effect": "PreferNoSchedule"}]}, {}, True),
    "tolerated": ({}, {"taints": [TAINT]}, {"tolerations": [TAINT]}, True),
    "tolerated for another effect": (
        {},
        {"taints": [TAINT]},
        {"tolerations": [TAINT | {"effect": "NoExecute"}]},
        False,
    ),
    "tolerated with another value": (
        {},
        {"taints": [TAINT]},
        {"tolerations": [TAINT | {"value": "speech"}]},
        False,
    ),
    "tolerated with any value": (
        {},
        {"taints": [TAINT]},
        {"tolerations": [{"key": "team", "operator": "Exists"}]},
        True,
    ),
    "everything tolerated": (
        {},
        {"taints": [TAINT]},
        {"tolerations": [{"operator": "Exists"}]},
        True,
    ),
}


@pytest.mark.parametrize(
    ("labels", "spec", "told", "expected"), ADMISSIONS.values(), ids=ADMISSIONS.keys()
)
def test_a_node_that_would_not_take_the_pod_is_not_counted(
    raw_service, labels, spec, told, expected
):
    """A condition said "needs 4 on one node, largest free is 8 on node b", which was tainted."""
    service = parse(raw_service(podTemplate=told))
    found = {"metadata": {"labels": labels}, "spec": spec}
    assert admitting(service, [found]) == [found] * expected


def node(memory_mib=None, gpus="8", taint=None, pool="a"):
    labels = {"nvidia.com/gpu.memory": str(memory_mib)} if memory_mib else {}
    return {
        "metadata": {"labels": labels | {"pool": pool}},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]} if taint else {},
        "status": {"allocatable": {"nvidia.com/gpu": gpus}},
    }


@pytest.fixture
def service(raw_service):
    resources = {"limits": {"nvidia.com/gpu": "4"}}
    return parse(raw_service(resources=resources, podTemplate={"nodeSelector": {"pool": "a"}}))


def test_every_place_that_could_hold_a_pod_counts(service):
    nodes = [
        node(81_559),
        node(40_960),
        node(24_576, pool="b"),
        node(24_576, gpus="2"),
        node(None),
    ]
    assert gpu_memories(service, nodes) == (*[40_960 << 20] * 2, *[81_559 << 20] * 2)


def test_nodes_that_repel_a_pod_have_no_memory_for_it(service):
    """A model was said to fit for the GPUs of a node that is tainted for another team."""
    nodes = [node(40_960, gpus="7"), node(81_559, taint="team")]
    assert gpu_memories(service, nodes) == (40_960 << 20,)


@pytest.mark.parametrize("taint", ["nvidia.com/gpu", "node.kubernetes.io/unschedulable"])
def test_nodes_have_memory_that_gpus_keep_for_themselves_or_that_rest(service, taint):
    """Else a model were too large as soon as somebody drains the node that holds it."""
    assert gpu_memories(service, [node(81_559, "4", taint)]) == (81_559 << 20,)
