"""What a pod that finds no node needs, and the most that is free: arithmetic and its sources."""

import asyncio
import contextlib
from dataclasses import replace
from decimal import Decimal

import pytest
from openinference_operator import cluster as cluster_module
from openinference_operator.errors import ApiError
from openinference_operator.facts import Facts
from openinference_operator.observe import Obstacle
from openinference_operator.pods import read_pod
from openinference_operator.resources import RESOURCES
from openinference_operator.shortage import explain, requests_of, reserve
from openinference_operator.signals import stuck as stuck_module
from openinference_operator.signals.nodes import Nodes
from openinference_operator.signals.stuck import Stuck
from openinference_operator.signals.survey import Survey
from openinference_operator.spec import parse
from openinference_operator.status import build_status

GPU = "nvidia.com/gpu"


def node(name, **allocatable):
    amounts = {GPU if key == "gpu" else key: value for key, value in allocatable.items()}
    return {"metadata": {"name": name}, "spec": {}, "status": {"allocatable": amounts}}


def pod(where, gpus, phase="Running"):
    container = {"resources": {"limits": {GPU: str(gpus)}}}
    return {"spec": {"nodeName": where, "containers": [container]}, "status": {"phase": phase}}


NODES = [node("a", gpu="8", memory="64Gi"), node("b", gpu="4", memory="32Gi")]
SHORTAGES = {
    # name: (lacking, nodes, pods) -> words
    "the largest gap is named": (
        {GPU: 4},
        NODES,
        [pod("a", 7), pod("b", 2)],
        f"needs 4 {GPU} on one node, largest free is 2 on node b",
    ),
    "what has ended is free": (
        {GPU: 9},
        NODES,
        [pod("a", 7, "Succeeded"), pod("b", 2, "Failed")],
        f"needs 9 {GPU} on one node, largest free is 8 on node a",
    ),
    "what waits for a node takes none": (
        {GPU: 9},
        NODES,
        [pod(None, 4)],
        f"needs 9 {GPU} on one node, largest free is 8 on node a",
    ),
    "no node has any": ({GPU: 1}, [node("a", memory="1Gi")], [], "largest free is 0"),
    "bytes are readable": (
        {"memory": 2**40},
        NODES,
        [],
        "needs 1.1 TB memory on one node, largest free is 68.7 GB on node a",
    ),
    "several at once": (
        {GPU: 9, "cpu": 2},
        [node("a", gpu="8", cpu="1500m")],
        [],
        f"needs 9 {GPU} on one node, largest free is 8 on node a;"
        " needs 2 cpu on one node, largest free is 1.5 on node a",
    ),
    "nothing is known": ({GPU: 1}, [], [], ""),
}


@pytest.mark.parametrize(
    ("lacking", "nodes", "pods", "words"), SHORTAGES.values(), ids=SHORTAGES.keys()
)
def test_a_shortage_in_numbers(lacking, nodes, pods, words):
    lacking = {name: Decimal(amount) for name, amount in lacking.items()}
    used = {}
    for each in pods:
        reserve(used, each)
    told = explain(lacking, nodes, used)
    assert told.endswith(words)
    assert bool(told) == bool(words)


def test_requests_are_summed_up_over_containers_and_maximal_over_init_containers():
    spec = {
        "containers": [
            {"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", GPU: 2}}},
            {"resources": {"requests": {"cpu": "1"}}},
        ],
        "initContainers": [{"resources": {"requests": {"cpu": "3", GPU: 1}}}, {}],
    }
    assert requests_of({"spec": spec}) == {"cpu": Decimal(3), GPU: Decimal(2)}


def test_sidecars_run_beside_the_containers_and_those_that_start_after_them():
    """As meshes inject them; a node with many seemed emptier than it was."""

    def cpu(amount, **fields):
        return {"resources": {"requests": {"cpu": amount}}, **fields}

    sidecar = cpu("1", restartPolicy="Always")
    overhead = {"cpu": "250m"}
    spec = {"containers": [cpu("2")], "initContainers": [cpu("1"), sidecar], "overhead": overhead}
    assert requests_of({"spec": spec}) == {"cpu": Decimal("3.25")}
    spec = {"containers": [cpu("2")], "initContainers": [sidecar, cpu("4")]}
    assert requests_of({"spec": spec}) == {"cpu": Decimal(5)}


def unschedulable(raw_pod, told):
    condition = {"type": "PodScheduled", "status": "False", "message": told}
    raw = raw_pod("demo-1a2b3c4d-0", is_ready=False, conditions=[condition])
    raw["spec"] |= {"containers": [{"resources": {"limits": {GPU: "4", "cpu": "2"}}}]}
    return raw


def test_what_is_lacking_is_what_the_scheduler_names(raw_pod):
    raw = unschedulable(raw_pod, f"0/3 nodes are available: 3 Insufficient {GPU}.")
    assert read_pod(raw).trouble.lacking == {GPU: Decimal(4)}


def conditions(world, **obstacles):
    observed = world.observe()
    [group] = observed.groups
    observed = replace(observed, obstacles={group.name: Obstacle(**obstacles)})
    facts = Facts(world.parsed, observed, world.plan(), None, world.now)
    return group, {entry["type"]: entry for entry in build_status(facts)["conditions"]}


def test_a_pod_that_is_refused_is_said_in_the_words_of_the_refusal(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    group, told = conditions(world, words="exceeded quota: cpu=2, limited to 1", has_pod=False)
    assert (told["GroupsHealthy"]["status"], told["Ready"]["reason"]) == ("False", "PodNotCreated")
    assert told["Ready"]["message"] == (
        f"StatefulSet {group.name} gets no pod: exceeded quota: cpu=2, limited to 1"
    )


def test_a_pod_whose_volumes_are_missing_is_said_in_the_words_of_its_node(make_world):
    world = make_world(replicas=1)
    world.reconcile()
    _, told = conditions(world, words='configmap "certificates" not found', has_pod=True)
    assert (told["GroupsHealthy"]["status"], told["Ready"]["reason"]) == ("False", "PodNotStarted")
    assert told["Ready"]["message"].endswith(
        '-0 does not start: configmap "certificates" not found'
    )


@pytest.fixture
def stuck(cluster):
    return Stuck(cluster, Nodes(cluster))


def place(server, kind, namespace, obj):
    path = RESOURCES[kind].path(namespace, obj["metadata"]["name"])
    server.objects[path] = {"kind": kind, **obj}


async def test_nodes_and_pods_are_listed_only_while_a_pod_lacks_something(
    stuck, server, make_world, raw_pod
):
    world = make_world(replicas=1)
    world.reconcile()
    groups = world.observe().groups
    before = len(server.calls)
    assert await stuck.shortages(parse(world.service), groups) == {}
    assert len(server.calls) == before


async def test_whoever_asks_while_nodes_are_listed_waits_for_the_list(cluster, server):
    """The second of two services that began together went by a cluster without nodes."""
    for each in NODES:
        place(server, "Node", "", each)
    nodes = Nodes(cluster)
    known = await asyncio.gather(nodes.all(), nodes.all())
    assert [len(each) for each in known] == [2, 2]
    assert len(server.calls) == 1


async def test_of_a_node_only_what_decisions_read_is_kept(cluster, server):
    """Thousands of nodes as the API server shows them take more memory than the operator has."""
    metadata = {"name": "a", "labels": {"pool": "gpu"}, "annotations": {"much": "much"}}
    spec = {"taints": [{"key": GPU, "effect": "NoSchedule"}], "podCIDR": "10.0.0.0/24"}
    status = {"allocatable": {GPU: "8"}, "images": [{"names": ["much"]}]}
    place(server, "Node", "", {"metadata": metadata, "spec": spec, "status": status})
    [kept] = await Nodes(cluster).all()
    assert kept == {
        "kind": "Node",
        "metadata": {"name": "a", "labels": {"pool": "gpu"}},
        "spec": {"taints": spec["taints"]},
        "status": {"allocatable": {GPU: "8"}},
    }


@pytest.mark.parametrize(("status", "raises"), [(500, True), (403, False)])
async def test_nodes_that_could_not_be_listed_yet_are_not_none(cluster, server, status, raises):
    """A layout chosen while nobody knew the memory of GPUs was kept for good."""
    place(server, "Node", "", NODES[0])
    nodes = Nodes(cluster)
    server.failures = [status]
    with pytest.raises(ApiError) if raises else contextlib.nullcontext():
        assert list(await nodes.all()) == []
    assert len(await nodes.all()) == int(raises)


async def test_all_pods_of_the_cluster_are_added_up_over_pages(
    stuck, server, make_world, raw_pod, monkeypatch
):
    world = make_world(replicas=1)
    world.reconcile()
    raw = unschedulable(raw_pod, f"0/2 nodes are available: 2 Insufficient {GPU}.")
    group = replace(world.observe().groups[0], members=(read_pod(raw),))
    monkeypatch.setattr(cluster_module, "PAGE_SIZE", 2)
    for each in NODES:
        place(server, "Node", "", each)
    for number in range(5):
        taken = pod("a", 1) | {"metadata": {"name": f"other-{number}"}}
        place(server, "Pod", "", taken)
    place(server, "Pod", "", pod("b", 3) | {"metadata": {"name": "another"}})
    place(server, "Node", "", node("c", gpu="8") | {"spec": {"unschedulable": True}})
    assert await stuck.shortages(parse(world.service), [group]) == {
        group.name: f"needs 4 {GPU} on one node, largest free is 3 on node a"
    }
    world.service["spec"]["podTemplate"] = {"affinity": {"nodeAffinity": {}}}
    assert await stuck.shortages(parse(world.service), [group]) == {}


async def test_nodes_that_their_gpus_keep_for_themselves_count_for_who_asks_for_gpus(
    stuck, server, make_world, raw_pod
):
    """Clouds taint them so, and tolerate it for such pods when they are admitted."""
    world = make_world(replicas=1)
    world.service["spec"]["resources"] = {"limits": {GPU: "4"}}
    world.reconcile()
    raw = unschedulable(raw_pod, f"0/1 nodes are available: 1 Insufficient {GPU}.")
    group = replace(world.observe().groups[0], members=(read_pod(raw),))
    taint = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    place(server, "Node", "", node("a", gpu="2") | {"spec": {"taints": [taint]}})
    assert await stuck.shortages(parse(world.service), [group]) == {
        group.name: f"needs 4 {GPU} on one node, largest free is 2 on node a"
    }


async def test_the_newest_refusal_of_a_pod_is_found(stuck, server, make_world, monkeypatch):
    world = make_world(replicas=1)
    world.reconcile()
    group = replace(world.observe().groups[0], members=(None,))
    server.put("Event", "old", lastTimestamp="2026-01-01T00:00:00Z", message="an older word")
    server.put("Event", "new", lastTimestamp="2026-01-01T00:00:09Z", message="exceeded quota")
    assert await stuck.refusals("team-a", [group]) == {group.name: "exceeded quota"}
    monkeypatch.setattr(stuck_module, "PATIENCE_SECONDS", 1e10)
    assert await stuck.refusals("team-a", [group]) == {}


async def test_a_refusal_is_asked_for_once_in_a_while(stuck, server, make_world, monkeypatch):
    world = make_world(replicas=1)
    world.reconcile()
    group = replace(world.observe().groups[0], members=(None,))
    server.put("Event", "old", lastTimestamp="2026-01-01T00:00:00Z", message="exceeded quota")
    await stuck.refusals("team-a", [group])
    server.put("Event", "new", lastTimestamp="2026-01-01T00:00:09Z", message="no such account")
    calls = len(server.calls)
    assert await stuck.refusals("team-a", [group]) == {group.name: "exceeded quota"}
    assert len(server.calls) == calls
    another = replace(group, name="demo-1a2b3c4d-9", uid="another")
    assert await stuck.refusals("team-a", [another]) == {another.name: "no such account"}
    monkeypatch.setattr(stuck_module, "PATIENCE_SECONDS", 0.0)
    assert await stuck.refusals("team-a", [group]) == {group.name: "no such account"}


@pytest.fixture
def waiting_pod(raw_pod):
    """(what the pod says about its volumes and network) → a pod whose container is not made."""

    def make(may_start):
        condition = {"type": "PodReadyToStartContainers", "status": may_start}
        raw = raw_pod("demo-1a2b3c4d-0", is_ready=False, conditions=[condition])
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        raw["status"]["containerStatuses"][0]["state"] = waiting
        return raw

    return make


@pytest.mark.parametrize(("may_start", "expected"), [("False", "no such claim"), ("True", None)])
async def test_why_the_containers_of_a_pod_may_not_start_is_asked_of_events(
    stuck, server, make_world, waiting_pod, may_start, expected
):
    world = make_world(replicas=1)
    world.reconcile()
    group = replace(world.observe().groups[0], members=(read_pod(waiting_pod(may_start)),))
    server.put("Event", "new", lastTimestamp="2026-01-01T00:00:09Z", message="no such claim")
    stalls = await stuck.stalls("team-a", [group])
    assert stalls == ({group.name: expected} if expected else {})
    assert bool(server.calls) == bool(expected)


@pytest.mark.parametrize(("may_start", "again"), [("False", 5.0), ("True", None)])
async def test_a_pod_whose_containers_are_not_made_is_looked_at_again(
    cluster, server, make_world, waiting_pod, may_start, again
):
    """Its warning comes later than the last change of the pod, and nothing else tells of it."""
    world = make_world(replicas=1)
    world.reconcile()
    observed = world.observe()
    group = replace(observed.groups[0], members=(read_pod(waiting_pod(may_start)),))
    observed = replace(observed, groups=(group,))
    _, again_in_seconds = await Survey(cluster).add(parse(world.service), observed)
    assert again_in_seconds == again
